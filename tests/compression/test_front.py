"""DGC takes a model and settings as people have them at hand; what does not fit is named."""

import subprocess
import sys
from typing import Any, get_type_hints

import pytest
import torch
import torch.distributed as dist
from torch import nn

from dgc_topo.compression import DGC, DGCConfig, RandomK, TernGrad
from dgc_topo.compression.dense import Dense
from dgc_topo.training.compression import CompressionSection
from dgc_topo.training.settings import TrainSection

MAKERS: dict[str, Any] = {
    "dgc": lambda p: DGC(p, num_workers=2, density=0.1, warm_up="none"),
    "dense": Dense,
    "terngrad": lambda p: TernGrad(p, rank=0),
    "random-k": lambda p: RandomK(p, density=0.1),
}
every_maker = pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


@every_maker
def test_a_module_and_its_named_parameters_give_the_same(maker):
    model = net()
    model(torch.ones(3, 6)).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    updates = []
    for given in (model, dict(model.named_parameters()), model.named_parameters()):
        rank = maker(given)
        updates.append(rank.finish(rank.compress(gradients)))
    for other in updates[1:]:
        assert other.keys() == updates[0].keys() == gradients.keys()
        assert all(other[name].equal(updates[0][name]) for name in other)


@every_maker
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: net().parameters(), "parameters are generator of Parameter, expected a module, t"),
        (lambda: [torch.zeros(2, 2)], "parameters are list of Tensor, expected a module"),
        (lambda: torch.zeros(2, 2), "parameters are Tensor, expected a module"),
        (lambda: "weights", "parameters are str, expected a module"),
        (lambda: None, "parameters are NoneType, expected a module, tensors by name, or pairs"),
        (lambda: [("w", torch.zeros(1))] * 2, "parameter 'w' is there twice, expected each name"),
        (nn.ReLU, "no parameters, expected at least one"),
    ],
)
def test_what_names_no_parameters_is_refused(maker, given, message):
    with pytest.raises(ValueError, match=message):
        maker(given())


def test_settings_by_name_are_those_of_a_config():
    config = DGCConfig(density=0.001, momentum=0.8)
    named = DGC(net(), num_workers=1, density="0.1%", momentum=0.8)
    assert named._config == config
    assert RandomK(net(), density="0.1%").density == config.density


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"densty": 0.1}, "dgc: unknown setting 'densty' .did you mean 'density'.., expected one "),
        ({"config": DGCConfig(), "density": 0.1}, "dgc: config and density, expected one of both"),
        ({"density": "some"}, "dgc config: density 'some': expected a fraction such as 0.001 or"),
        ({"density": "120%"}, "dgc config: density 1.2, expected 0 < density <= 1"),
        ({"momentum": 1}, "dgc config: momentum 1, expected 0 <= momentum < 1"),
        ({"clip_norm": 0.0}, "clip_norm 0.0, expected a finite number above 0, or None"),
        ({"weight_decay": -1.0}, "weight_decay -1.0, expected a finite number of at least 0"),
        ({"clear_every_steps": 0}, "clear_every_steps 0, expected at least 1"),
        ({"warm_up_stages": 0}, "warm_up_stages 0, expected at least 1, or None"),
        ({"warm_up": "slow"}, "warm_up 'slow', expected one of none, paper, geometric"),
        ({"nesterov": True, "momentum": 0}, "dgc config: momentum 0, expected above 0 with nest"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DGC(net(), num_workers=1, **settings)


def test_workers_are_those_of_the_process_group(tmp_path):
    with pytest.raises(ValueError, match="num_workers None and no process group, expected a whole"):
        DGC(net())
    address = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    try:
        assert DGC(net())._num_workers == 1
    finally:
        dist.destroy_process_group()


def test_a_wrong_shape_is_all_that_is_said_of_a_plain_tensor():
    rank = DGC(net(), num_workers=1, warm_up="none")
    gradients: dict[str, Any] = dict(net().named_parameters())
    with pytest.raises(ValueError, match="shape") as error:
        rank.compress({**gradients, "0.weight": torch.zeros(6, 5)})
    assert "strided" not in str(error.value)


def test_a_config_shows_what_differs_and_help_shows_every_setting():
    assert repr(DGCConfig()) == "DGCConfig()"
    assert repr(DGCConfig(density=0.01, scope="model")) == "DGCConfig(density=0.01, scope='model')"
    help_text = DGCConfig.__doc__ or ""
    for name in DGCConfig.__dataclass_fields__:
        assert f"        {name}: " in help_text


def test_a_scenario_reads_its_keys_from_dgc():
    schema = CompressionSection.model_json_schema()["properties"]
    config = DGCConfig.__dataclass_fields__
    hints = get_type_hints(DGCConfig)
    shared = config.keys() & schema.keys()
    assert len(shared) == 15
    for key in shared:
        assert schema[key]["default"] == config[key].default
        assert len(schema[key]["description"]) > 15
        assert CompressionSection.model_fields[key].annotation == hints[key]
    assert schema["warm_up_epochs"]["exclusiveMinimum"] == 0
    assert schema["clear_every_steps"]["minimum"] == 1


def test_a_section_makes_the_config_it_stands_for():
    section = CompressionSection(scope="model", wire_dtype="float16", clipping=False, masking=False)
    settings: Any = {"momentum": 0.5, "nesterov": True, "weight_decay": 0.01, "clip_norm": 2.0}
    train = TrainSection.model_construct(**settings)
    assert section.dgc_config(0.01, train) == DGCConfig(
        density=0.01,
        momentum=0.5,
        nesterov=True,
        weight_decay=0.01,
        scope="model",
        wire_dtype="float16",
        masking=False,
    )
    assert [section.method_at(density) for density in (1.0, 0.01)] == ["dense", "dgc"]
    assert CompressionSection(method="random-k").method_at(1.0) == "random-k"


def test_settings_are_read_without_torch():
    code = (
        "import sys; from dgc_topo.compression import DGCConfig; "
        "from dgc_topo.training.compression import CompressionSection; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_people_hold_says_what_it_is():
    rank = DGC(net(), num_workers=2, density=0.1, warm_up="none")
    assert repr(rank) == "DGC(40 of 47 elements compressed, density=0.1, num_workers=2)"
    assert repr(TernGrad(net(), rank=0)) == "TernGrad(40 of 47 elements compressed)"
    assert repr(Dense(net())) == "Dense(47 elements, wire_dtype='float32')"
    payload = rank.compress(dict(net().named_parameters()))
    assert repr(payload).startswith("BundlePayload(SparsePayload(4 of 40 elements, WireCoding(")
    assert repr(payload).endswith("DensePayload(7 elements, wire_dtype='float32'))")
