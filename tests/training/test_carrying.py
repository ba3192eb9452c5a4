"""State by parameter name survives however parameters move from one compressor to the next."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.training.carrying import Parked, by_parameter, by_section, sections_of

NAMES = ["a", "b", "c", "d", "e"]
COMPRESSED = {"a", "b", "c"}  # the others travel dense, and have momentum alone


def fresh(names: set[str]) -> dict[str, Any]:
    """Return the snapshot of a new compressor of some parameters."""
    return {
        "step": 3,
        "residual": {name: torch.zeros(2) for name in sorted(names & COMPRESSED)},
        "momentum": {name: torch.zeros(1) for name in sorted(names - COMPRESSED)},
        "sent_histogram": {"all": torch.zeros(2)},
    }


def trained(state: dict[str, Any], number: int) -> None:
    """Add something of its own to every tensor."""
    for section in sections_of(state).values():
        for name, tensor in section.items():
            tensor.add_(number + len(name) / 8)


@given(
    st.lists(
        st.lists(st.sets(st.sampled_from(NAMES), min_size=1), max_size=3).filter(
            lambda parts: len(set().union(*parts)) == sum(map(len, parts))
        ),
        max_size=6,
    )
)
def test_whatever_is_trained_when_nothing_is_lost_or_counted_twice(worlds):
    """Each world has compressors of disjoint sets; some parameters are in none."""
    parked, expected, histogram, number = Parked(), dict.fromkeys(NAMES, 0.0), 0.0, 0
    for parts in worlds:
        live: list[dict[str, Any]] = []
        for part in parts:
            state: dict[str, Any] = {"step": 3, **parked.take(fresh(part))}
            assert {key: set(state[key]) for key in ("residual", "momentum")} == {
                "residual": part & COMPRESSED,
                "momentum": part - COMPRESSED,
            }
            number += 1
            trained(state, number)
            for name in part:
                expected[name] += number + 1 / 8
            histogram += number + len("all") / 8
            live.append(state)
        for state in live:
            parked.add(state)
    found = by_parameter(parked.sections)
    for name, total in expected.items():
        own = found.get(name, {})
        assert set(own) <= {"residual" if name in COMPRESSED else "momentum"}
        assert all((tensor == total).all() for tensor in own.values())
        assert bool(own) == bool(total)
    kept = parked.sections.get("sent_histogram", {"all": torch.zeros(2)})["all"]
    assert (kept == histogram).all()
    assert by_section(found) == {
        key: tensors for key, tensors in parked.sections.items() if key != "sent_histogram"
    }


def test_later_state_of_a_parameter_takes_the_place_of_earlier_state():
    parked = Parked({"residual": {"a": torch.ones(2), "b": torch.ones(2)}, "step": 1})
    parked.add({"residual": {"a": torch.zeros(2)}})
    assert parked.take({"residual": {"a": torch.full((2,), 9.0)}})["residual"]["a"].tolist() == [
        0,
        0,
    ]
    parked.forget("residual")
    assert parked.sections == {}
