"""Steps, schedules and their compositions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.proof import check_all_reduce
from dgc_topo.schedule import (
    Schedule,
    ScheduleError,
    Step,
    beside,
    copy,
    gather,
    mix,
    place,
    reduce,
    refine,
    then,
)
from dgc_topo.schedule.text import format_schedule, parse_schedule
from dgc_topo.schedule.weights import contributions
from dgc_topo.topology import load_topology


def halves(denominator: int):
    return mix(0, 1, weight=1, denominator=denominator)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: reduce(1, 1), "two different ranks"),
        (lambda: reduce(-1, 1), "ranks >= 0"),
        (lambda: copy(0, 1, -1), "first chunk >= 0"),
        (lambda: copy(0, 1, 0, 0), "at least one chunk"),
        (lambda: mix(0, 1, weight=1, denominator=0), "denominator 0"),
        (lambda: reduce(np.array([0.5]), 1), "expected integers"),
        (
            lambda: mix(0, 1, weight=1, denominator=1.5),  # type: ignore[arg-type]
            "denominator 1.5, expected an integer",
        ),
        (lambda: mix(0, 1, weight=1, denominator=1 << 70), "denominator .* to 2.*62 - 1"),
        (
            lambda: mix(0, 1, weight=1 << 62, denominator=2),
            "weight 4611686018427387904, expected a",
        ),
        (lambda: reduce(np.array([1 << 63], np.uint64), 1), "src 9223372036854775808, expected a"),
        (lambda: reduce(1 << 64, 1), "src 18446744073709551616, expected a magnitude"),
        (
            lambda: gather(mix(0, 1, weight=1, denominator=d) for d in (3**30, 2**40)),
            "denominator .* expected an integer from 1 to",
        ),
        (
            lambda: gather([mix(0, 1, weight=1 << 40, denominator=1), halves(3**20)]),
            "keep -38337.* at most 2",
        ),
        (
            lambda: Step(*[np.zeros(1, np.int32)] * 6),  # type: ignore[arg-type]
            "expected 1-D int64 arrays of one length",
        ),
        (lambda: Schedule.from_steps(2, 1, [], servers=(0, 1)), "a rank that contributes as well"),
        (
            lambda: copy(np.arange(3), np.arange(2)),
            r"^step: arrays of shapes src \(3,\), dst \(2,\), expected one length$",
        ),
        (
            lambda: reduce(0, np.arange(4), chunk=np.zeros((2, 2), int)),
            r"shapes dst \(4,\), chunk \(2, 2\), expected one length",
        ),
        (lambda: Schedule.from_steps(0, 1, []), "at least one of each"),
        (lambda: Schedule.from_steps(2, 1, [], servers=(2,)), "servers"),
        (lambda: Schedule.from_steps(2, 1, [reduce(0, 2)]), "step 0: rank 0 -> rank 2"),
        (lambda: Schedule.from_steps(2, 1, [reduce(0, 1), copy(0, 1, 0, 2)]), "step 1"),
    ],
)
def test_nonsense_is_refused_with_what_was_expected(build, says):
    with pytest.raises(ScheduleError, match=says):
        build()


def test_a_rank_that_does_not_exist_has_no_view():
    with pytest.raises(ScheduleError, match="rank 4: expected 0 to 3"):
        next(load_topology("ring").schedule(4).for_rank(4))


def test_a_scalar_weight_is_stored_once_however_many_ranks_there_are():
    assert reduce(np.arange(1000), np.arange(1000) + 1).keep.strides == (0,)


def test_gather_puts_weights_over_a_common_denominator():
    step = gather([mix(0, 1, weight=1, denominator=2), mix(2, 3, weight=1, denominator=3)])
    assert [str(t.weight) for t in step] == ["1/2", "1/3"]
    assert [str(t.keep) for t in step] == ["1/2", "2/3"]


def test_beside_runs_both_on_their_own_half():
    ring, tree = (load_topology(name).schedule(5) for name in ("ring", "tree"))
    both = beside(ring, tree, goal="all-reduce")
    assert both.num_chunks == 10
    check_all_reduce(both)
    assert sum(1 for _ in both.steps()) == max(
        sum(1 for _ in ring.steps()), sum(1 for _ in tree.steps())
    )


def test_then_of_two_all_reduces_counts_everyone_world_size_times():
    ring = load_topology("ring").schedule(3)
    weights, denominator = contributions(then(ring, load_topology("tree").schedule(3)))
    assert (weights == 3 * denominator).all()


def test_refined_schedules_compute_the_same():
    check_all_reduce(refine(load_topology("butterfly").schedule(6), 3))


def test_place_leaves_other_ranks_alone():
    placed = place(load_topology("ring").schedule(3), np.array([1, 4, 5]), 7)
    weights, _ = contributions(placed)
    for rank in range(7):
        expected = {1, 4, 5} if rank in {1, 4, 5} else {rank}
        assert set(np.flatnonzero(weights[rank, 0])) == expected


def test_composition_of_different_worlds_is_refused():
    with pytest.raises(ScheduleError, match=r"world sizes \[2, 3\]"):
        then(load_topology("ring").schedule(2), load_topology("ring").schedule(3))
    with pytest.raises(ScheduleError, match="sorted and distinct"):
        place(load_topology("ring").schedule(2), np.array([3, 1]), 4)


@st.composite
def schedules(draw):
    n, chunks = draw(st.integers(2, 6)), draw(st.integers(1, 5))
    steps = []
    for _ in range(draw(st.integers(0, 4))):
        transfers = []
        for _ in range(draw(st.integers(0, 4))):
            src = draw(st.integers(0, n - 1))
            dst = (src + draw(st.integers(1, n - 1))) % n
            first = draw(st.integers(0, chunks - 1))
            count = draw(st.integers(1, chunks - first))
            kind = draw(st.sampled_from(["reduce", "copy", "mix"]))
            if kind == "mix":
                d = draw(st.integers(1, 9))
                w = draw(st.integers(0, d))
                transfers.append(mix(src, dst, first, count, weight=w, denominator=d))
            else:
                transfers.append((reduce if kind == "reduce" else copy)(src, dst, first, count))
        steps.append(gather(transfers))
    return Schedule.from_steps(n, chunks, steps, goal="part")


@given(schedules())
def test_the_text_form_has_an_inverse(schedule):
    text = format_schedule(schedule)
    again = parse_schedule(text)
    assert format_schedule(again) == text
    one, other = (contributions(s) for s in (schedule, again))
    assert (one[0].astype(object) * other[1] == other[0].astype(object) * one[1]).all()


@given(schedules())
def test_the_ranks_views_together_are_the_schedule(schedule):
    for rank in range(schedule.world_size):
        seen = {view.index: view for view in schedule.for_rank(rank)}
        for index, step in enumerate(schedule.steps()):
            sends = [t for t in step if t.src == rank]
            receives = [t for t in step if t.dst == rank]
            if sends or receives:
                assert list(seen[index].sends) == sends
                assert list(seen[index].receives) == receives
            else:
                assert index not in seen


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "line 1"),
        ("schedule world_size=2 num_chunks=1 goal=win servers=-", "line 1"),
        ("schedule world_size=2 num_chunks=1 goal=part servers=-\n0 -> 1 chunk 0 reduce", "line 2"),
        ("schedule world_size=2 num_chunks=1 goal=part servers=-\nstep 1", "line 2"),
        ("schedule world_size=2 num_chunks=1 goal=part servers=-\nstep 0\n0 > 1", "line 3"),
        *(
            (f"schedule world_size=2 num_chunks=1 goal=part servers=-\nstep 0\n{line}", "line 3")
            for line in ("0 -> 1 chunk 0 keep=1/0 weight=1", "0 -> 0 chunk 0 reduce")
        ),
    ],
)
def test_text_that_is_no_schedule_names_the_line(text, line):
    with pytest.raises(ScheduleError, match=line):
        parse_schedule(text)


def test_a_ring_of_four_is_the_golden_file(golden):
    golden("ring_4.txt", format_schedule(load_topology("ring").schedule(4)))


def test_the_grid_shows_who_sends_what_and_marks_the_place(golden):
    schedule = load_topology("butterfly").schedule(4)
    golden("butterfly_4_grid.txt", f"{schedule.grid(mark=(1, 2))}\n")
