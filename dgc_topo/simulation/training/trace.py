"""Traces of a simulated step: spans of time, also as a file for chrome://tracing or Perfetto."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from dgc_topo.files import write_whole
from dgc_topo.simulation.training.result import StepRun

SpanKind = Literal["compute", "compress", "communicate", "update"]

#: Most ranks without an explicit choice; more could not be looked at.
MAX_RANKS = 64

_US = 1e6


class Span(NamedTuple):
    """Span of time in which one rank does one thing.

    Attributes:
        kind: Kind of work; ``communicate`` is the network's row, all others the processor's.
        name: Name of the work.
        start_s: Seconds after the step began.
        end_s: Seconds after the step began.
    """

    kind: SpanKind
    name: str
    start_s: float
    end_s: float


def spans_of(result: StepRun, rank: int) -> list[Span]:
    """Return the spans of a rank in a step, in order of time; spans of one row never overlap.

    Raises:
        ValueError: if there is no such rank.
    """
    world_size = len(result.update_s)
    if not 0 <= rank < world_size:
        raise ValueError(f"trace: rank {rank}, expected 0 to {world_size - 1}")
    spans = [*_processor(result, rank), *_network(result, rank)]
    return sorted(
        (span for span in spans if span.end_s > span.start_s), key=lambda span: span.start_s
    )


def _processor(result: StepRun, rank: int) -> Iterator[Span]:
    timeline = result.timeline
    begin, now = float(timeline.begin_s[rank]), float(timeline.passes_end_s[rank])
    start = float(timeline.start_s[rank])
    yield Span("compute", f"{result.every - 1} local steps", start, begin)
    yield Span("compute", "forward", begin, now)
    ends = iter(timeline.layer_end_s[:, rank].tolist())
    for number, bucket in enumerate(result.buckets):
        for layer in bucket.layers:
            start, now = now, next(ends)
            yield Span("compute", f"backward {layer.name}", start, now)
        start, now = now, float(timeline.encode_start_s[number, rank])
        yield Span("update", "update", start, now)
        start, now = now, float(timeline.ready_s[number, rank])
        yield Span("compress", f"compress {number}", start, now)
    for number in range(len(result.buckets)):
        start = float(result.decode_start_s[number, rank])
        end = float(result.decode_end_s[number, rank])
        yield Span("compress", f"decompress {number}", start, end)
    start = float(result.decode_end_s[-1, rank])
    yield Span("update", "update", start, start + float(result.update_s[rank]))


def _network(result: StepRun, rank: int) -> Iterator[Span]:
    starts, ends = result.traffic.start_s[:, rank], result.traffic.end_s[:, rank]
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        yield Span("communicate", f"bucket {number}", start, end)


def write_chrome_trace(result: StepRun, path: Path, ranks: Sequence[int] | None = None) -> None:
    """Write a step as Chrome trace events (JSON): a process per rank, with two rows.

    Open it in chrome://tracing or https://ui.perfetto.dev.  Times are in microseconds, as the
    format (Trace Event Format, Google 2016) says.

    Args:
        result: Run of a step.
        path: File to write.
        ranks: Ranks to write; all if there are no more than 64.

    Raises:
        ValueError: if there are more ranks and none are chosen, or there is no such rank.
    """
    events = []
    for rank in chosen_ranks(result, ranks):
        role = "rank" if rank in set(result.workers.tolist()) else "server"
        events.append(_name("process_name", rank, 0, f"{role} {rank}"))
        events += [_name("thread_name", rank, row, ("processor", "network")[row]) for row in (0, 1)]
        for span in spans_of(result, rank):
            row = int(span.kind == "communicate")
            length_us = _US * (span.end_s - span.start_s)
            events.append(
                {"ph": "X", "cat": span.kind, "name": span.name, "pid": rank, "tid": row}
                | {"ts": _US * span.start_s, "dur": length_us}
            )
    trace = {"traceEvents": events, "displayTimeUnit": "ms"}
    write_whole(path, json.dumps(trace, indent=1))


def chosen_ranks(result: StepRun, ranks: Sequence[int] | None) -> Sequence[int]:
    """Return the ranks to show.

    Raises:
        ValueError: if none are chosen and there are too many.
    """
    if ranks is not None:
        return ranks
    if len(result.update_s) > MAX_RANKS:
        raise ValueError(
            f"trace: {len(result.update_s)} ranks, expected a choice of ranks above {MAX_RANKS}"
        )
    return range(len(result.update_s))


def _name(what: str, pid: int, tid: int, name: str) -> dict[str, object]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}
