"""Workloads: one value, from a model's name, a module, counts or a recorded run."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from dgc_topo.simulation import Workload, load_workload
from dgc_topo.zoo import load_model
from tests.records import COMPUTING, measurement


class Net(nn.Module):
    """A convolution with little to send and much to compute, and a linear layer the other way."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4 * 64, 1000)  # registered first, used last
        self.norm = nn.BatchNorm2d(4)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images):
        return self.head(self.norm(self.stem(images)).flatten(1))


def test_a_model_of_the_zoo_takes_the_users_own_time_and_batch():
    own, mine = load_workload("resnet50"), load_workload("resnet50", compute_s="0.21s")
    assert own.compute_s == load_model("resnet50").compute_s
    assert mine.compute_s == pytest.approx(0.21, rel=1e-12)
    assert mine.batch_size == own.batch_size
    ready = [layer.ready_s / mine.compute_s for layer in mine.layers]
    assert ready == pytest.approx([layer.ready_s / own.compute_s for layer in own.layers])
    assert load_workload("resnet50", compute_s=0.21, batch_size=32).batch_samples == 32
    assert load_workload("gpt2-medium").batch_samples == load_model("gpt2-medium").batch_samples
    assert load_workload("resnet50", batch_size=32).compute_s < own.compute_s


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_module_is_ready_by_the_arithmetic_of_its_layers(device):
    with torch.device(device):
        net = Net()
    found = load_workload(net, compute_s=0.3, example=torch.empty(16, 3, 8, 8))
    assert [layer.name for layer in found.layers] == ["head", "norm", "stem"]
    assert found.num_elements == sum(p.numel() for p in net.parameters())
    assert found.dense_elements == 1000 + 8 + 4
    assert (found.batch_size, found.name) == (16, "Net")
    assert found.forward_s == pytest.approx(0.1)
    stem, head = 2 * 3 * 9 * 4 * 64, 2 * 256 * 1000
    share = head / (stem + head)
    assert [each.ready_s for each in found.layers] == pytest.approx([0.2 * share, 0.2 * share, 0.2])
    assert next(net.parameters()).device.type == device  # left as it was


def test_without_an_example_parameters_are_counted_and_the_source_says_so():
    found = load_workload(Net(), compute_s=0.3)
    assert "approximation" in found.source
    assert found.layers[-1].name == "head"  # registered first
    assert found.layers[-1].ready_s == pytest.approx(0.2)


def test_tied_and_frozen_parameters_are_sent_once_and_never():
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 2))
    net[1].weight = net[0].weight
    net[2].weight.requires_grad_(False)
    found = load_workload(net, compute_s=1.0, example=torch.empty(4, 8))
    assert [(layer.name, layer.num_elements) for layer in found.layers] == [("2", 2), ("0", 64)]


def test_a_record_and_its_folder_give_one_workload(tmp_path):
    record = measurement(solo_phases=COMPUTING)
    found = load_workload(record)
    assert found.compute_s == pytest.approx(1.0)
    assert found.gradient_bytes == record.gradient_bytes
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "measurements.jsonl").write_text(record.model_dump_json() + "\n")
    assert load_workload(folder) == found
    assert load_workload(str(folder), name=record.workload) == found
    with pytest.raises(ValueError, match="has no measured record of 'other'"):
        load_workload(folder, name="other")


def test_counts_and_a_workload_itself():
    found = load_workload(elements=1000, dense_elements=10, compute_s="20ms", batch_size=8)
    assert (found.num_elements, found.backward_s, found.batch_size) == (1010, 0.02, 8)
    assert load_workload(found) is not None
    assert load_workload(found) == found
    assert load_workload(found, compute_s=1.0, name="mine") == replace(
        found.lasting(1.0), name="mine"
    )


def test_it_is_hashable_and_shows_itself_in_few_words():
    found = load_workload("resnet50")
    assert hash(found) == hash(load_workload("resnet50"))
    assert len(repr(found)) < 100
    assert "resnet50" in repr(found)
    assert found._repr_html_().startswith("<table><caption>resnet50</caption>")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((("resnet5",), {}), "did you mean 'resnet50'"),
        ((("results/none",), {}), "unknown; expected one of alexnet"),
        (((Net(),), {}), "compute_s: missing for a module .* median"),
        (((nn.ReLU(),), {"compute_s": 1.0}), "expected parameters to train"),
        (((nn.LazyLinear(3),), {"compute_s": 1.0}), "parameter 'weight' has no shape yet"),
        (((Net(),), {"compute_s": 1, "example": torch.empty(2, 5)}), "cannot run the example"),
        (((), {"elements": 10}), "compute_s: missing beside elements"),
        (((), {}), "nothing given"),
        ((("resnet50",), {"elements": 10}), "elements: the source has its own"),
        ((("resnet50",), {"compute_s": 0}), "compute_s 0: expected above 0"),
        ((("resnet50",), {"compute_s": "3"}), "no unit"),
        (((42,), {}), "expected a model's name"),
    ],
)
def test_what_it_lacks_is_one_clear_error(given, says):
    arguments, keywords = given
    with pytest.raises(ValueError, match=says):
        load_workload(*arguments, **keywords)


def test_torch_is_imported_for_modules_only():
    code = (
        "import sys; from dgc_topo.simulation.workload_sources import load_workload as load;"
        "load('resnet50', compute_s=1); load(elements=3, compute_s=1);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_workload_is_checked():
    with pytest.raises(ValueError, match="batch_size 0"):
        replace(load_workload("resnet50"), batch_size=0)
    with pytest.raises(ValueError, match="no layers"):
        Workload(0.0, ())


def test_a_model_in_a_file_is_that_module_and_takes_no_memory(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def huge(): return nn.Sequential(nn.Linear(10**6, 10**6), nn.Linear(10**6, 3))\n"
        "def odd(): return 7\n"
        "def needs(width): return nn.Linear(width, 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    found = load_workload("net.py:huge", compute_s=0.3, name="mine")
    assert found.tensor_sizes == (3 * 10**6, 10**12)
    assert found.name == "mine"
    example = torch.empty(8, 10**6, device="meta")
    assert load_workload("net.py:huge", compute_s=0.3, example=example).batch_size == 8
    for name, says in (
        ("net.py:odd", r"net\.py:odd: made int, expected an nn\.Module"),
        ("net.py:needs", r"raised TypeError: .*'width', called without arguments"),
        ("net.py", r"model 'net\.py': a Python file, expected the form file\.py:NAME"),
        ("net.py:hug", r"has no 'hug' \(did you mean 'huge'\?\)"),
        ("nets.py:huge", r"nets\.py:huge: no such file in the current folder"),
    ):
        with pytest.raises(ValueError, match=says):
            load_workload(name, compute_s=0.3)
    with pytest.raises(ValueError, match="compute_s: missing for a module"):
        load_workload("net.py:huge")
