"""Schedules as lists that can be edited: drawn at random, and changed in one place."""

from dataclasses import replace
from fractions import Fraction

import numpy as np

from dgc_topo.schedule import Goal, Schedule, ScheduleError, Step, Transfer, gather, mix

Steps = list[list[Transfer]]

#: keep and weight; halves, so that what float32 comes to is exact.
KINDS = [
    (Fraction(keep), Fraction(weight))
    for keep, weight in (
        *[("1", "1"), ("0", "1")] * 4,
        ("1/2", "1/2"),
        ("1", "0"),
        ("1", "-1"),
        ("0", "0"),
        ("-1", "1"),
        ("2", "1/2"),
    )
]


def step_of(transfers: list[Transfer]) -> Step:
    """Return a step that lists *transfers* in their order."""
    if not transfers:
        return gather([])
    denominator = int(np.lcm.reduce([f.denominator for t in transfers for f in (t.keep, t.weight)]))
    rows = [
        (t.src, t.dst, t.chunk, t.count, int(t.keep * denominator), int(t.weight * denominator))
        for t in transfers
    ]
    src, dst, chunk, count, keep, weight = np.array(rows, np.int64).T
    return mix(src, dst, chunk, count, keep=keep, weight=weight, denominator=denominator)


def schedule_of(
    steps: Steps, world_size: int, num_chunks: int, goal: Goal, servers: tuple[int, ...] = ()
) -> Schedule:
    """Return a schedule of such steps."""
    kept = [step_of(step) for step in steps]
    return Schedule.from_steps(world_size, num_chunks, kept, goal=goal, servers=servers)


def drawn(random: np.random.Generator) -> Schedule:
    """Draw 2 to 5 ranks and up to 3 steps; about half the transfers are to one rank."""
    n, num_chunks = int(random.integers(2, 6)), int(random.integers(1, 4))
    steps = []
    for _ in range(random.integers(1, 4)):
        busy = int(random.integers(n))
        transfers = []
        for _ in range(random.integers(2, 6)):
            dst = busy if random.random() < 0.5 else int(random.integers(n))
            src = (dst + int(random.integers(1, n))) % n
            chunk = int(random.integers(num_chunks))
            count = int(random.integers(1, num_chunks - chunk + 1))
            transfers.append(Transfer(src, dst, chunk, count, *KINDS[random.integers(len(KINDS))]))
        steps.append(transfers)
    return schedule_of(steps, n, num_chunks, "all-reduce", (0,) if random.random() < 0.1 else ())


def drawn_sum(random: np.random.Generator) -> Schedule:
    """Draw an all-reduce: partial sums meet in one rank, several at a time, and go back."""
    n = int(random.integers(2, 6))
    order = random.permutation(n).tolist()
    one, zero = Fraction(1), Fraction(0)
    up: Steps = []
    left = order
    while len(left) > 1:
        taken = int(random.integers(1, len(left)))
        given, left = left[-taken:], left[:-taken]
        up.append([Transfer(src, left[0], 0, 1, one, one) for src in given])
    down = [[Transfer(t.dst, t.src, 0, 1, zero, one) for t in step] for step in reversed(up)]
    return schedule_of(up + down, n, 1, "all-reduce")


def edited(schedule: Schedule, random: np.random.Generator) -> Schedule | None:
    """Change a schedule in one place; None if that makes no schedule."""
    steps: Steps = [list(step) for step in schedule.steps()]
    places = [(s, t) for s, step in enumerate(steps) for t in range(len(step))]
    if not places:
        return None
    s, t = places[random.integers(len(places))]
    EDITS[random.integers(len(EDITS))](steps, s, t, random)
    try:
        return schedule_of(
            steps, schedule.world_size, schedule.num_chunks, schedule.goal, schedule.servers
        )
    except ScheduleError:
        return None


def _change(field, low, high):
    def edit(steps, s, t, random):
        old = steps[s][t]
        new = getattr(old, field) + int(random.integers(low, high)) * (-1) ** random.integers(2)
        steps[s][t] = replace(old, **{field: max(new, 0)})

    return edit


def _drop(steps, s, t, random):
    del steps[s][t]


def _double(steps, s, t, random):
    steps[s].insert(int(random.integers(len(steps[s]) + 1)), steps[s][t])


def _kind(steps, s, t, random):
    keep, weight = KINDS[random.integers(len(KINDS))]
    steps[s][t] = replace(steps[s][t], keep=keep, weight=weight)


def _weigh(steps, s, t, random):
    old, more = steps[s][t], Fraction(1, int(random.integers(2, 5)))
    steps[s][t] = replace(old, **{("keep", "weight")[random.integers(2)]: old.weight + more})


def _move(steps, s, t, random):
    steps[max(0, min(len(steps) - 1, s + (-1) ** random.integers(2)))].append(steps[s].pop(t))


def _reorder(steps, s, t, random):
    steps[s].insert(int(random.integers(len(steps[s]))), steps[s].pop(t))


def _drop_step(steps, s, t, random):
    del steps[s]


def _swap_steps(steps, s, t, random):
    other = int(random.integers(len(steps)))
    steps[s], steps[other] = steps[other], steps[s]


EDITS = [
    _drop,
    _double,
    _kind,
    _weigh,
    _move,
    _reorder,
    _drop_step,
    _swap_steps,
    _change("src", 1, 3),
    _change("dst", 1, 3),
    _change("chunk", 1, 2),
    _change("count", 1, 2),
]
