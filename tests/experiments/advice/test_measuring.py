"""Measuring a model's step here: what is timed, and what is refused."""

import re
import time
from typing import Any

import pytest
import torch
from torch import nn

import dgc_topo as dt
from dgc_topo.experiments.advice.measuring import measure_step
from dgc_topo.zoo import load_model

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        return {"logits": self.second(self.first(x).relu()), "note": "no tensor"}

class TwoInputs(Net):
    def forward(self, a, b):
        return super().forward(a + b)["logits"]

def pair(batch_size):
    return torch.zeros(batch_size, 6), torch.ones(batch_size, 6)

def named(batch_size):
    return {"a": torch.zeros(batch_size, 6), "b": torch.ones(batch_size, 6)}

class Detached(Net):
    def forward(self, x):
        return super().forward(x)["logits"].detach()

class Frozen(Net):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)

def lost(batch_size):
    raise KeyError("no such file")
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


class Slow(nn.Module):
    """Takes 10 ms forward, and 20 ms backward behind its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        time.sleep(0.01)
        hidden = self.first(x)
        hidden.register_hook(lambda _: time.sleep(0.02))
        return self.last(hidden)


def test_a_step_is_split_into_passes_with_the_moments_at_which_layers_are_ready():
    found = measure_step(Slow(), batch_size=4, examples=lambda size: torch.ones(size, 3))
    last, first = found.workload.layers
    assert (last.name, first.name) == ("last", "first")
    assert found.workload.forward_s >= 0.01
    assert first.ready_s - last.ready_s >= 0.02
    assert first.ready_s == found.workload.backward_s
    assert found.workload.compute_s >= 0.03
    assert (last.shapes, last.dense_elements) == (((2, 5),), 2)
    assert found.workload.batch_size == 4
    assert found.num_steps >= 5
    assert min(found.spread, found.workload.update_s, found.compress_s) > 0


def test_a_model_of_the_zoo_is_measured_with_its_own_gradient():
    found = measure_step("resnet20-cifar", batch_size=1)
    model = load_model("resnet20-cifar")
    assert found.workload.num_elements == model.num_elements
    assert sorted(found.workload.tensor_sizes) == sorted(dt.load_workload(model).tensor_sizes)
    assert found.workload.layers[0].name == "classifier"
    assert "measured here" in found.workload.source


@pytest.mark.parametrize(
    ("name", "examples"),
    [("Net", "6"), ("TwoInputs", "{file}:pair"), ("TwoInputs", "{file}:named")],
)
def test_own_models_run_on_a_shape_or_on_what_a_function_makes(name, examples, file):
    given = examples.format(file=file)
    found = measure_step(f"{file}:{name}", batch_size=2, examples=given).workload
    assert (found.name, found.num_elements, found.batch_size) == (name, 38, 2)


def test_advice_is_about_what_was_measured():
    advice = dt.advise(
        Slow(), 2, network="ib-hdr", measure=True, examples=lambda size: torch.ones(size, 3)
    )
    assert advice.workload.compute_s >= 0.03
    assert advice.codec.fixed_s > 0
    assert any("compressing costs as measured here" in line for line in advice.assumptions)
    assert "measured here" in advice.assumptions[0]


@pytest.mark.parametrize(
    ("model", "arguments", "told"),
    [
        ("alexnet", {}, "no library here makes it"),
        ("resnet20-cifar", {"examples": "3x32x32"}, "has its own"),
        ("resnet20-cifar", {"batch_size": 0}, "batch_size 0"),
        ("resnet20-cifar", {"step_time": 0.1}, "measure: a step_time is given beside it"),
        ("{file}:Net", {}, "input: missing"),
        ("{file}:Net", {"examples": "three"}, "input 'three'"),
        ("{file}:Net", {"examples": "0x6"}, "input '0x6'"),
        ("{file}:Net", {"examples": "9"}, "net.py:11"),
        ("{file}:Net", {"examples": "{file}:lost"}, "KeyError: 'no such file' at"),
        ("{file}:Detached", {"examples": "6"}, "no output depends on the parameters"),
        ("{file}:Frozen", {"examples": "6"}, "no parameters to train"),
        ("{file}:pair", {"examples": "6"}, "pair"),
        ("nothing", {}, "cannot be run here"),
        (None, {"parameters": "1M"}, "parameters alone cannot be run"),
    ],
)
def test_what_cannot_be_measured_is_refused(model, arguments, told, file):
    given: dict[str, Any] = {
        key: value.format(file=file) if isinstance(value, str) else value
        for key, value in arguments.items()
    }
    source = model.format(file=file) if model else None
    with pytest.raises(ValueError, match=re.escape(told)):
        dt.advise(source, 2, measure=True, **given)


def test_a_model_whose_library_is_missing_is_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision", None)
    with pytest.raises(ValueError, match="needs torchvision, which is not installed"):
        measure_step("resnet50")


def test_an_input_without_measuring_is_refused():
    with pytest.raises(ValueError, match="input: is what a measured model runs on"):
        dt.advise("resnet50", 2, examples="3x224x224")


@pytest.mark.parametrize("reason", [torch.OutOfMemoryError("full"), MemoryError()])
def test_too_large_a_batch_is_named(reason):
    class Huge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            raise reason

    with pytest.raises(ValueError, match="out of memory with a batch of 512"):
        measure_step(Huge(), batch_size=512, examples="2")
