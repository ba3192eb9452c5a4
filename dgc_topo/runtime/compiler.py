"""The compiler: from a schedule to the ordered acts of one rank, for one layout of payloads.

A step's transfers read the state before the step.  Still, a rank need not finish a step before it
begins the next one: a message may leave as soon as the chunks it carries have received everything
from earlier steps, while other messages of those steps are under way.  In a schedule of several
parts side by side (`dgc_topo.schedule.beside`) the link then never waits for a reduction, nor for
the slowest message of a step.  But while a rank sends to one peer, it does not begin to send to
another: both messages would take twice as long, and the rank that needs the first one would be
delayed for nothing.  (Measured at 100 Mbit/s, a tree of 10 MB without this rule took 4.1 s among 4
ranks and 6.6 s among 8, instead of 3.4 s and 5.2 s.)

A rank runs ahead by one step at most, so that scratch memory and the drift between ranks stay
bounded, and an error can still name the step in which a rank was stuck.

No cycle of ranks can wait for each other: a rank posts all sends of a step before it waits for
anything of that step, and all receives of the step before it waits for one of these sends.

All of this is decided before a run, so that the run spends its time on messages.  That matters most
if ranks outnumber cores: each rank then finds the caches full of the others' data, and Python code
costs several times as much as in a tight loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from torch import Tensor

from dgc_topo.payload import Arrival, Payload
from dgc_topo.runtime.drafts import WINDOW, Draft, Messages
from dgc_topo.runtime.program import Complete, Program, ProgramStep, Receive, Send
from dgc_topo.schedule import Schedule

_ALIGNMENT = 64  #: bytes of a line of a cache


def compile_program(
    schedule: Schedule,
    rank: int,
    payload: Payload,
    memory: Callable[[int], Tensor] | None = None,
    first_tag: int = 0,
) -> Program:
    """Compile the program of *rank* in *schedule* for payloads of *payload*'s layout.

    A message without bytes (a chunk without elements) is not sent, because both ends know its size.

    Args:
        schedule: Of all ranks.
        rank: The rank to compile for.
        payload: Any with that layout, which has been cut into the schedule's chunks.
        memory: Function from a number of bytes to memory for a run; None if out of its reach.
        first_tag: Number of the first message between two ranks.

    Raises:
        ScheduleError: if there is no such rank, or a transfer does not fit the schedule.
    """
    messages = Messages(payload, schedule.num_chunks, first_tag, reaches=memory is not None)
    drafts: list[Draft] = []
    for step in schedule.for_rank(rank):
        draft = Draft(step, drafts[-1] if drafts else None, messages)
        if drafts:
            drafts[-1].find_releases(draft)
        drafts.append(draft)
    after: list[Draft | None] = [*drafts[1:], None][: len(drafts)]
    steps = tuple(_step(now, following) for now, following in zip(drafts, after, strict=True))
    arrivals = {} if memory is None else _arrivals(steps, memory)
    return Program(steps, messages.num_receives, messages.num_sends, arrivals)


def _step(now: Draft, after: Draft | None) -> ProgramStep:
    """Return a step's acts in order, together with acts for the next step that may come early."""
    acts: list[Receive | Send | Complete] = [*now.receive(now.room(0))]
    # Sends come before receives of the next step, because posting a receive takes as long as a
    # send. (Measured in a bare loop of the same messages: a butterfly of 8 ranks and 50 kB at 100
    # Mbit/s took 11.2 ms in the opposite order, instead of 9.9 ms.)
    acts += now.send(range(len(now.sends)))
    if after is not None:
        acts += _receive_ahead(now, 0, after)
        acts += after.send_early(now.releases)
    for number, group in enumerate(now.groups):
        acts += now.receive(now.room(number))
        if after is not None:
            acts += _receive_ahead(now, number, after)
        if group.receives:
            acts.append(group.completion())
        if after is not None:
            acts += after.send_early(group.releases)
    sends = tuple(filter(None, now.sends))
    return ProgramStep(now.index, tuple(acts), now.receives, sends, _sizes(sends, now.receives))


def _receive_ahead(now: Draft, number: int, after: Draft) -> Iterator[Receive]:
    left = now.room(number) - len(now.groups) if now.is_stream else WINDOW
    return after.receive(left if after.is_stream else len(after.groups), early=True)


def _sizes(sends: Sequence[Send], receives: Sequence[Receive]) -> tuple[int, int] | None:
    sent, received = ([each.num_bytes for each in half] for half in (sends, receives))
    if None in sent or None in received:
        return None
    return sum(filter(None, sent)), sum(filter(None, received))


def _arrivals(steps: Iterable[ProgramStep], memory: Callable[[int], Tensor]) -> dict[int, Arrival]:
    """Assign places in scratch memory to messages; reuse the latest place, which is in a cache."""
    sizes: list[int] = []  # of places
    free: list[int] = []
    taken: dict[int, tuple[Receive, int, int]] = {}  # by slot: its place and size
    for act in (act for step in steps for act in step.acts):
        if isinstance(act, Receive) and act.num_bytes is not None and not act.lands:
            size = act.num_bytes
            if not free:
                sizes.append(size)
                free.append(len(sizes) - 1)
            place = ([place for place in free if sizes[place] >= size] or free)[-1]
            free.remove(place)
            sizes[place] = max(sizes[place], size)
            taken[act.slot] = act, place, size
        elif isinstance(act, Complete):
            free += (taken[each.slot][1] for each in act.receives if each.slot in taken)
    starts = [0, *accumulate(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]
    whole = memory(starts[-1])
    return {
        slot: Arrival(act.transfer, whole[starts[place] : starts[place] + size])
        for slot, (act, place, size) in taken.items()
    }
