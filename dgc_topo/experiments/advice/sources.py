"""Work of a worker: given, of the zoo, or measured here; and what compressing costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from dgc_topo.scalars import plain_bool, plain_float, plain_int
from dgc_topo.simulation import Workload, load_workload
from dgc_topo.simulation.training.timeline import Codec
from dgc_topo.units import count_from, seconds_from

if TYPE_CHECKING:
    from dgc_topo.experiments.advice.modules import Examples
    from dgc_topo.simulation.workload_sources import Source

#: On an H100: 0.288 ms for 25.6 M elements, benchmarks/results/2026-11-28-codec-h100.md.
H100_CODEC = Codec(encode_s_per_element=0.288e-3 / 25.6e6)


class CostedWork(NamedTuple):
    """Work of one worker, with the costs of compressing.

    Attributes:
        workload: Computing, and the gradients that it makes.
        codec: Costs of compressing.
        codec_source: Where these come from, for people.
    """

    workload: Workload
    codec: Codec
    codec_source: str


def work_of(
    model: Source | None,
    *,
    parameters: int | str | None,
    step_time: float | str | None,
    batch_size: int | None,
    compress: float | str | None,
    measure: bool,
    examples: str | Examples | None,
) -> CostedWork:
    """Return the work of a model, or of so many parameters; arguments as of `advise`.

    Raises:
        ValueError: if arguments do not fit together, or the model cannot be measured.
    """
    measure = plain_bool("measure", measure)
    _check_fits(model, parameters, step_time, measure=measure, examples=examples)
    measured_s = None
    if measure:
        # With torch, which nothing else here needs.
        from dgc_topo.experiments.advice.measuring import measure_step  # noqa: PLC0415

        found = measure_step(model, batch_size=batch_size, examples=examples)
        workload, measured_s = found.workload, found.compress_s
    elif parameters is None:
        with naming("compute_s", "step_time"):
            workload = load_workload(model, compute_s=step_time, batch_size=batch_size)
    else:
        with naming("compute_s", "step_time"):
            workload = load_workload(
                elements=_count(parameters), compute_s=step_time, batch_size=batch_size
            )
    if compress is not None:
        return CostedWork(workload, _codec_of(compress), "as much as given")
    if measured_s is not None:
        return CostedWork(workload, Codec(fixed_s=measured_s), "as measured here")
    return CostedWork(workload, H100_CODEC, "as measured on an H100 (1.1e-11 s per element)")


def _check_fits(
    model: Any,
    parameters: int | str | None,
    step_time: float | str | None,
    *,
    measure: bool,
    examples: object,
) -> None:
    if (model is None) == (parameters is None):
        found = "both" if model is not None else "none of them"
        raise ValueError(f"model and parameters: {found} given, expected one of them")
    if measure and parameters is not None:
        raise ValueError("measure: parameters alone cannot be run, expected a model")
    if measure and step_time is not None:
        raise ValueError("measure: a step_time is given beside it, expected one of them")
    if examples is not None and not measure:
        raise ValueError("input: is what a measured model runs on, expected measure as well")
    if parameters is not None and step_time is None:
        raise ValueError("step_time: missing beside parameters, expected one such as '180ms'")


def _count(parameters: int | str) -> int:
    if isinstance(parameters, str):
        return count_from(parameters, "parameters")
    return plain_int("parameters", parameters, least=1)


@contextmanager
def naming(argument: str, shown: str) -> Iterator[None]:
    """Name an argument in errors as the caller knows it."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if not text.startswith(argument):
            raise
        raise ValueError(shown + text.removeprefix(argument)) from error


def _codec_of(compress: float | str) -> Codec:
    if isinstance(compress, str):
        return Codec(fixed_s=seconds_from(compress, "compress"))
    seconds = plain_float("compress", compress)
    if not 0 <= seconds < inf:
        raise ValueError(f"compress {seconds}: expected 0 or more, and finite")
    return Codec(fixed_s=seconds)
