"""Snapshots resume bit for bit, and wrong ones are refused before anything is loaded."""

import pickle
from typing import Any

import pytest
import torch

from dgc_topo.compression.compressor import Compressor
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.dense import Dense
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.random_k import RandomK
from dgc_topo.compression.terngrad import TernGrad
from tests.compression.workers import apply, model, random_like, step

MAKERS: dict[str, Any] = {
    "dense": lambda p: Dense(p, weight_decay=0.01),
    "dense-nesterov": lambda p: Dense(p, nesterov=True),
    "dense-no-momentum": lambda p: Dense(p, momentum=0),
    "dgc": lambda p: DGC(p, num_workers=1, config=DGCConfig(density=0.05, warm_up_epochs=2)),
    "dgc-separate": lambda p: DGC(
        p,
        num_workers=1,
        config=DGCConfig(density=0.05, weight_decay=0.01, weight_decay_mode="separate"),
    ),
    "dgc-dropping": lambda p: DGC(
        p, num_workers=1, config=DGCConfig(density=0.05, momentum_correction=False)
    ),
    "dgc-ages": lambda p: DGC(
        p,
        num_workers=1,
        config=DGCConfig(density=0.05, clear_velocities="stale", clear_every_steps=4),
    ),
    "dgc-naive": lambda p: DGC(
        p, num_workers=1, config=DGCConfig(density=0.05, accumulation=False)
    ),
    "terngrad": lambda p: TernGrad(p, rank=0),
    "random-k": lambda p: RandomK(p, density=0.2),
}


def train(rank: Compressor, parameters, steps: range) -> None:
    for number in steps:
        rank.set_progress(number / 4)
        gradients = random_like(parameters, torch.Generator().manual_seed(number))
        apply(parameters, step([rank], [gradients])[0], lr=0.1)


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(maker):
    unbroken, broken = model(), model()
    train(maker(unbroken), unbroken, range(12))
    first = maker(broken)
    train(first, broken, range(5))
    saved = pickle.dumps(first.state_dict())
    train(first, model(), range(5, 7))  # what happens after the snapshot is not in it
    second = maker(broken)
    second.load_state_dict(pickle.loads(saved))
    train(second, broken, range(5, 12))
    assert all(broken[name].equal(unbroken[name]) for name in broken)


def test_state_is_keyed_by_parameter_and_remembers_step_and_progress():
    parameters = model()
    rank = MAKERS["dgc"](parameters)
    train(rank, parameters, range(3))
    state = rank.state_dict()
    assert (state["step"], state["epoch"]) == (3, 0.5)
    assert list(state["velocity"]) == list(state["residual"]) == ["conv.weight", "fc.weight"]
    assert state["residual"]["fc.weight"].shape == (5, 12)
    assert list(state["momentum"]) == ["conv.bias", "norm.scale", "fc.bias"]
    resumed = MAKERS["dgc"](parameters)
    resumed.load_state_dict(state)
    assert (resumed.step, resumed.density) == (3, rank.density)


def test_later_steps_leave_a_snapshot_alone():
    parameters = model()
    rank = MAKERS["dgc"](parameters)
    train(rank, parameters, range(2))
    state = rank.state_dict()
    before = state["residual"]["fc.weight"].clone()
    train(rank, parameters, range(2, 4))
    assert state["residual"]["fc.weight"].equal(before)


def wrong_states(state):
    residual = state["residual"]
    without = {name: t for name, t in residual.items() if name != "fc.weight"}
    return {
        "taken by 'dense'": state | {"compressor": "dense"},
        "step None": state | {"step": None},
        "dgc state 'residual': NoneType": {k: v for k, v in state.items() if k != "residual"},
        "missing \\['fc.weight'\\]": state | {"residual": without},
        "unknown \\['other'\\]": state | {"residual": residual | {"other": torch.zeros(1)}},
        "'fc.weight' is \\(3,\\), expected shape \\(5, 12\\)": state
        | {"residual": residual | {"fc.weight": torch.zeros(3)}},
        "'fc.weight' is int": state | {"residual": residual | {"fc.weight": 3}},
    }


@pytest.mark.parametrize("message", wrong_states({"residual": {}}).keys())
def test_a_wrong_snapshot_is_refused_and_nothing_is_loaded(message):
    parameters = model()
    source, target = (MAKERS["dgc"](parameters) for _ in range(2))
    train(source, parameters, range(3))
    with pytest.raises(ValueError, match=message):
        target.load_state_dict(wrong_states(source.state_dict())[message])
    assert not any(t.any() for t in (target.residuals() | target.velocities()).values())
    assert target.step == 0


def test_a_dense_snapshot_without_momentum_does_not_fit_one_with():
    parameters = model()
    with pytest.raises(ValueError, match="dense state 'momentum': missing"):
        Dense(parameters).load_state_dict(Dense(parameters, momentum=0).state_dict())


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(5, 12, dtype=torch.int64),
        torch.zeros(5, 12, dtype=torch.complex64),
        torch.zeros(5, 12).to_sparse(),
        torch.zeros(5, 12, device="meta"),
        torch.full((5, 12), 1e39, dtype=torch.float64),
    ],
    ids=["integers", "complex", "sparse", "meta", "too large"],
)
def test_a_saved_tensor_that_float32_cannot_hold_is_refused_and_nothing_is_loaded(value):
    source, target = (MAKERS["dgc"](model()) for _ in range(2))
    train(source, model(), range(3))
    state = source.state_dict()
    state["residual"]["fc.weight"] = value
    with pytest.raises(
        ValueError, match=r"'fc\.weight' is .*, expected numbers that torch\.float32"
    ):
        target.load_state_dict(state)
    assert not any(t.any() for t in (target.residuals() | target.velocities()).values())


@pytest.mark.parametrize("state", [None, [1], "file.pt"])
def test_what_is_no_snapshot_at_all_is_refused(state):
    for make in MAKERS.values():
        with pytest.raises(ValueError, match=r"state: .*, expected what state_dict\(\) returned"):
            make(model()).load_state_dict(state)
