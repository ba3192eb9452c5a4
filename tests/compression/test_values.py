"""Settings may come as any library's numbers, and are stored as plain ones."""

import io
import json
from dataclasses import asdict
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
import torch

from dgc_topo.compression.after_sum import SGDSettings
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.dense import Dense
from dgc_topo.compression.density import StagedDensity
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.random_k import RandomK
from dgc_topo.compression.terngrad import TernGrad
from tests.compression.workers import constant, model

YES: Any = np.True_
HALVES: dict[str, Any] = {
    "float": 0.5,
    "np.float64": np.float64(0.5),
    "np.float32": np.float32(0.5),
    "np.float16": np.float16(0.5),
    "array": np.array(0.5),
    "tensor": torch.tensor(0.5),
    "bfloat16": torch.tensor(0.5, dtype=torch.bfloat16),
    "fraction": Fraction(1, 2),
}
WHOLES: dict[str, Any] = {
    "int": 3,
    "np.int64": np.int64(3),
    "np.uint8": np.uint8(3),
    "array": np.array(3),
    "tensor": torch.tensor(3),
}
NO_NUMBERS: list[Any] = [
    *("0.5", b"1", None, True, np.True_, torch.tensor(True), 1j, [0.5]),
    *(np.array([0.5]), torch.tensor([0.5]), Decimal(1), {}, torch.float32),
]
half = pytest.mark.parametrize("half", HALVES.values(), ids=HALVES.keys())
whole = pytest.mark.parametrize("whole", WHOLES.values(), ids=WHOLES.keys())


def through_a_file(state: dict[str, object]) -> dict[str, object]:
    """Return what `torch.load` gives that trusts no file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, object] = torch.load(file, weights_only=True)
    return loaded


def all_of(half: Any, whole: Any) -> dict[str, Any]:
    """Return compressors whose every setting is given."""
    sgd = SGDSettings(momentum=half, weight_decay=half, clip_norm=half, nesterov=YES)
    numbers = {"momentum": half, "weight_decay": half, "clip_norm": half}
    config = DGCConfig(density=half, warm_up_epochs=half, clear_every_steps=whole, **numbers)
    parameters = model()
    return {
        "dgc": DGC(parameters, num_workers=whole, config=config),
        "dense": Dense(parameters, nesterov=YES, **numbers),
        "terngrad": TernGrad(parameters, rank=whole, seed=whole, clip_sigmas=half, sgd=sgd),
        "random-k": RandomK(parameters, density=half, seed=whole, sgd=sgd),
    }


@half
@whole
def test_settings_of_any_library_give_the_same_bits_and_a_state_that_loads(half, whole):
    gradients = {name: torch.ones_like(p) for name, p in model().items()}
    plain = all_of(0.5, 3)
    for name, rank in all_of(half, whole).items():
        for one in (rank, plain[name]):
            one.set_progress(half if one is rank else 0.5)
        updates, expected = (one.finish(one.compress(gradients)) for one in (rank, plain[name]))
        assert all(updates[n].equal(expected[n]) for n in updates)
        state = through_a_file(rank.state_dict())
        again = all_of(half, whole)[name]
        again.load_state_dict(state)
        assert again.state_dict().keys() == state.keys()
        assert {n: v for n, v in again.state_dict().items() if not isinstance(v, dict)} == {
            n: v for n, v in plain[name].state_dict().items() if not isinstance(v, dict)
        }
        assert type(rank.density) is float


@half
@whole
def test_settings_are_stored_as_plain_numbers(half, whole):
    stored: list[Any] = [
        DGCConfig(density=half, momentum=half, warm_up_epochs=half, clear_every_steps=whole),
        SGDSettings(momentum=half, nesterov=YES),
        StagedDensity(target=half, stages=(half, half), warm_up_epochs=half),
    ]
    for settings in stored:
        hash(settings)
        json.dumps(asdict(settings), allow_nan=False)
        values = [v for v in asdict(settings).values() if v is not None]
        assert {type(v) for v in values} <= {bool, int, float, str, tuple}


@pytest.mark.parametrize(
    "value", NO_NUMBERS, ids=[f"{type(v)}{i}" for i, v in enumerate(NO_NUMBERS)]
)
def test_what_is_no_number_is_refused_everywhere(value):
    parameters = model()
    for rank in all_of(0.5, 3).values():
        with pytest.raises(ValueError, match=f"{rank.name}: progress of .*, expected a number"):
            rank.set_progress(value)
    for field in ("density", "momentum", "weight_decay", "warm_up_epochs"):
        if field == "density" and value == "0.5":
            continue  # a fraction may be text
        with pytest.raises(ValueError, match=f"dgc config: {field} .*, expected a number"):
            DGCConfig(**{field: value})
    with pytest.raises(ValueError, match=r"num_workers .*, expected a whole number"):
        DGC(parameters, num_workers=value)
    with pytest.raises(ValueError, match=r"seed .*, expected a whole number"):
        RandomK(parameters, density=0.5, seed=value)
    with pytest.raises(ValueError, match=r"rank .*, expected a whole number"):
        TernGrad(parameters, rank=value)
    if value != "0.5":  # a fraction may be text
        with pytest.raises(ValueError, match=r"random-k: density .*, expected a number"):
            RandomK(parameters, density=value)
    with pytest.raises(ValueError, match=r"sgd: momentum .*, expected a number"):
        SGDSettings(momentum=value)
    with pytest.raises(ValueError, match=r"dense: momentum .*, expected a number"):
        Dense(parameters, momentum=value)


@pytest.mark.parametrize(
    "epoch",
    [-1, -1e-9, float("nan"), float("inf"), np.float32("nan"), 10**400],
    ids=range(6),
)
def test_progress_that_is_no_finite_number_from_0_on_is_refused(epoch):
    for rank in all_of(0.5, 3).values():
        with pytest.raises(ValueError, match="expected a finite number >= 0"):
            rank.set_progress(epoch)


@pytest.mark.parametrize("value", [1, 0, "False", None, 0.0])
def test_a_flag_is_true_or_false(value):
    for field in ("nesterov", "accumulation", "masking", "track_ages"):
        with pytest.raises(ValueError, match=f"{field} .*, expected True or False"):
            DGCConfig(**{field: value})


@pytest.mark.parametrize("number", [2.5, 2.0, Fraction(2), np.float64(3)])
def test_a_count_is_a_whole_number(number):
    with pytest.raises(ValueError, match=r"num_workers .*, expected a whole number"):
        DGC(model(), num_workers=number)
    with pytest.raises(ValueError, match=r"clear_every_steps .*, expected a whole number"):
        DGCConfig(clear_every_steps=number)


@pytest.mark.parametrize("key", ["step", "epoch"])
@pytest.mark.parametrize("value", [True, -1, "3", float("nan"), [1]])
def test_a_snapshot_of_no_number_is_refused_and_nothing_is_loaded(key, value):
    for name, rank in all_of(0.5, 3).items():
        if key in rank.state_dict():
            before = rank.state_dict()
            with pytest.raises(ValueError, match=f"{name} state: step .* expected numbers"):
                rank.load_state_dict(before | {key: value})
            assert rank.step == before["step"]


def test_weight_decay_has_to_fit_a_float32():
    for make in (DGCConfig, SGDSettings):
        with pytest.raises(ValueError, match=r"weight_decay 1e\+39"):
            make(weight_decay=1e39)


class Halving:
    """A schedule of one's own."""

    target, warm_up_epochs = 0.5, 1.0

    def __init__(self, density: Any) -> None:
        self.density = density

    def density_at(self, epoch: float) -> Any:
        return self.density


def test_the_density_of_a_schedule_of_ones_own_is_checked_and_plain():
    for density in HALVES.values():
        rank = DGC(model(), num_workers=1, config=constant(), density_schedule=Halving(density))
        rank.set_progress(0)
        assert type(rank.density) is float
    for density in (0.0, -1.0, 1.5, float("nan"), "much"):
        rank = DGC(model(), num_workers=1, config=constant(), density_schedule=Halving(density))
        rank.set_progress(0)
        with pytest.raises(ValueError, match=r"dgc: density .*, expected"):
            rank.neutral()


@pytest.mark.parametrize("settings", [{"momentum": 0.5}, DGCConfig, "paper", constant()])
def test_settings_of_another_kind_are_refused(settings):
    for make in (TernGrad, RandomK):
        place: dict[str, Any] = {"rank": 0} if make is TernGrad else {"density": 0.5}
        with pytest.raises(ValueError, match=r"settings are .*, expected SGDSettings\(\.\.\.\)"):
            make(model(), sgd=settings, **place)
    if not isinstance(settings, DGCConfig):
        with pytest.raises(ValueError, match=r"settings are .*, expected DGCConfig\(\.\.\.\)"):
            DGC(model(), num_workers=1, config=settings)


def test_seeds_and_ranks_are_not_negative():
    with pytest.raises(ValueError, match="random-k: seed -1, expected at least 0"):
        RandomK(model(), density=0.5, seed=-1)
    with pytest.raises(ValueError, match="terngrad: rank -1, expected at least 0"):
        TernGrad(model(), rank=-1)


@pytest.mark.parametrize("key", ["clip_norm", "weight_decay", "momentum", "density"])
def test_a_whole_number_that_no_float_holds_is_refused(key):
    with pytest.raises(ValueError, match=f"^dgc config: {key} inf, expected"):
        DGCConfig(**cast(dict[str, Any], {key: 10**400}))
