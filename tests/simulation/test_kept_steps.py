"""Steps that are kept in memory are those that the schedule has yielded, whatever it does next."""

import numpy as np
import pytest

from dgc_topo.network import star
from dgc_topo.schedule import Schedule, Step, copy, reduce
from dgc_topo.simulation import UnionSizes, simulate_schedule
from dgc_topo.simulation.kept_steps import MOST_WEIGHT, find_kept

RANKS = 5


def into_one_array():
    """The receivers of all steps come in one array."""
    dst = np.empty(RANKS, np.int64)
    for step in range(1, RANKS):
        dst[:] = (np.arange(RANKS) + step) % RANKS
        yield copy(np.arange(RANKS), dst)


def into_one_number():
    """A sender of one entry is spread over all receivers."""
    src = np.zeros(1, np.int64)
    for step in range(RANKS - 2):
        src[0] = step
        yield copy(src, np.array([RANKS - 2, RANKS - 1]))


def into_what_is_shown():
    """A view that nobody can write into shows an array that changes."""
    src = np.zeros(1, np.int64)
    for step in range(RANKS - 2):
        src[0] = step
        yield copy(np.broadcast_to(src, (2,)), np.array([RANKS - 2, RANKS - 1]))


WRITERS = (into_one_array, into_one_number, into_what_is_shown)


@pytest.mark.parametrize("writes", WRITERS, ids=lambda writes: writes.__name__)
def test_a_schedule_may_write_into_its_arrays_for_the_next_step(writes):
    schedule = Schedule(RANKS, 1, lambda _: writes(), "part")
    sent = np.zeros(RANKS)
    for step in writes():
        sent += np.bincount(step.src, minlength=RANKS)
    network = star(RANKS, np.linspace(1, 2, 2 * RANKS), 0.1)
    bulk, events = (
        simulate_schedule(schedule, network, 5.0, engine=engine) for engine in ("bulk", "events")
    )
    np.testing.assert_array_equal(bulk.bytes_sent, 5.0 * sent)
    np.testing.assert_array_equal(events.bytes_sent, 5.0 * sent)
    np.testing.assert_allclose(bulk.finish_s, events.finish_s, rtol=1e-12)


@pytest.mark.parametrize("kept", [[0], [1], [0, 2], [1, 2]], ids=str)
def test_a_schedule_may_yield_some_steps_again_and_make_others_anew(kept):
    """Sparse sizes count the contributions of both kinds."""
    made = [copy(0, 1), copy(np.arange(4), np.arange(1, 5)), copy(np.arange(1, 5), np.arange(4))]
    again = {index: made[index] for index in kept}

    def steps_of(_):
        for index, step in enumerate(made):
            yield again.get(index) or Step(
                step.src, step.dst, step.chunk, step.count, step.keep, step.weight
            )

    schedule = Schedule(RANKS, 1, steps_of, "part")
    sizes = UnionSizes(schedule, length=1000, entries=40.0)
    bulk, events = (
        simulate_schedule(schedule, star(RANKS, 100.0), sizes, engine=engine)
        for engine in ("bulk", "events")
    )
    np.testing.assert_array_equal(bulk.bytes_sent, events.bytes_sent)


@pytest.mark.parametrize("num_chunks", [3, 7, 15, 48, 49])
def test_sizes_of_kept_steps_are_those_of_others_to_the_last_bit(num_chunks):
    """A message's bytes are rounded up, which makes a whole byte of the last bit."""
    around = np.arange(RANKS), np.roll(np.arange(RANKS), 1)
    counts = range(1, num_chunks + 1)

    def steps_of(_):
        return (reduce(*around, 0, count) for count in counts)

    for entries in np.linspace(1.0, 60.0, 12):
        kept, other = (Schedule(RANKS, num_chunks, steps_of, "part") for _ in range(2))
        sizes = UnionSizes(kept, length=1000, entries=entries)
        found = find_kept(kept)
        assert found is not None
        of_kept = [sizes.of_step(*numbered).num_bytes for numbered in enumerate(found.steps)]
        of_other = [sizes.of_step(*numbered).num_bytes for numbered in enumerate(other.steps())]
        np.testing.assert_array_equal(of_kept, of_other)


def test_equal_columns_are_kept_once():
    def steps_of(_):
        for step in range(20):
            yield copy(np.arange(RANKS), (np.arange(RANKS) + 1 + step % 2) % RANKS)

    kept = find_kept(Schedule(RANKS, 1, steps_of, "part"))
    assert kept is not None
    assert len({id(step.dst) for step in kept.steps}) == 2
    assert len({id(step.src) for step in kept.steps}) == 1


def test_steps_weigh_something_themselves():
    def steps_of(_):
        return (copy(0, 1) for _ in range(MOST_WEIGHT // 8))

    schedule = Schedule(2, 1, steps_of, "part")
    assert find_kept(schedule) is None


def test_a_schedule_need_not_be_hashable():
    class Steps:
        def __init__(self, count):
            self.count = count

        def __eq__(self, other):
            return isinstance(other, Steps)

        __hash__ = None  # type: ignore[assignment]

        def __call__(self, _):
            return (copy(0, 1) for _ in range(self.count))

    for count in (1, 3):  # the schedules are equal, but not the same
        result = simulate_schedule(Schedule(2, 1, Steps(count), "part"), star(2, 1.0), 5.0)
        assert result.engine == "bulk"
        assert result.messages == count
