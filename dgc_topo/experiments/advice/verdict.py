"""The verdict: what ranked ways come to, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dgc_topo.experiments.advice.ways import TrainingWay
from dgc_topo.sizes import is_sparse
from dgc_topo.units import percent_text, rate_text, seconds_text, three_digits, times_text

#: Gain in speed below which compressing is not worth its price in accuracy.
WORTH = 1.1
#: Gain in speed below which pruned sums are not worth theirs.
WORTH_PRUNING = 1.05
#: Step times that differ by less than this factor are as good as equal.
AS_FAST = 1.03
_NO_GAIN = 1.005  #: factor that would be printed as 0 %
_SAME = 5e-4  #: relative difference that would be printed as 0.0 %
#: Loss of accuracy that this project has measured, by density (percentage points, 3 seeds).
PRICES = {
    0.01: "0.35 +- 0.39",
    0.001: "0.53 +- 0.35",
}
SOURCE = "benchmarks/results/2026-11-28-ladder-resnet20.md"
#: Points of accuracy that pruned sums lost behind exact ones, at 1 % (3 seeds).
PRUNED_PRICE = "2.1"
PRUNED_SOURCE = "benchmarks/results/2026-11-30-merge.md"


def verdict_of(
    ways: Sequence[TrainingWay],
    *,
    network: str,
    better: Sequence[tuple[str, TrainingWay]],
    break_even_bytes_per_s: float | None,
) -> tuple[str, ...]:
    """Return the sentences of the verdict; the first says what to do.

    Args:
        ways: The fastest first, dense ones among them.
        network: Name of the network.
        better: Names of faster networks, and the fastest dense way over each.
        break_even_bytes_per_s: See `Advice`.
    """
    return tuple(_sentences(ways, network, better, break_even_bytes_per_s))


def _sentences(
    ways: Sequence[TrainingWay],
    network: str,
    better: Sequence[tuple[str, TrainingWay]],
    break_even_bytes_per_s: float | None,
) -> Iterator[str]:
    dense, sparse, chosen = best_dense(ways), best_sparse(ways), choice_of(ways)
    if max(way.speedup for way in (dense, sparse) if way is not None) < 1:
        yield f"Train on one worker: these {dense.num_workers} are slower, compressed or not."
    yield _choice(network, chosen)
    if chosen is dense:
        yield from _why_not(sparse, dense)
    else:
        yield f"Without compressing, the fastest is {dense.label}: {_speedup(dense)}."
        yield f"Compressed, training is {_gain(chosen, dense)}."
        yield from _why_not_less(ways, chosen)
        yield from _price(chosen)
        yield from _price_of_pruning(ways, chosen)
        if break_even_bytes_per_s is not None:
            about = float(f"{8 * break_even_bytes_per_s:.2g}")
            yield (
                "Compressing gains a tenth or more while a host's port carries less than "
                f"{rate_text(about)}."
            )
    yield from _waiting(dense)
    yield from _local_steps(ways, chosen)
    yield from _upgrade(network, dense, chosen, better)


def _waiting(dense: TrainingWay) -> Iterator[str]:
    """Say why workers are slower than one alone, if they are."""
    if dense.speedup < 1:
        yield (
            f"Without compressing, these {dense.num_workers} workers are slower than one worker "
            f"alone: a step computes for {seconds_text(dense.alone_s)}, and waits for "
            f"{seconds_text(dense.step_time_s - dense.alone_s)}, bound by {dense.bound_text}."
        )


def choice_of(ways: Sequence[TrainingWay]) -> TrainingWay:
    """Return the way to choose: the best dense one, or the best compressed one if that pays."""
    dense, sparse = best_dense(ways), best_sparse(ways)
    return dense if sparse is None or not pays(sparse, dense) else sparse


def best_dense(ways: Sequence[TrainingWay]) -> TrainingWay:
    """Return the fastest way that sends every element of the gradient."""
    dense = (way for way in ways if not is_sparse(way.density) and way.form.sends_gradients)
    return min(dense, key=lambda way: way.step_time_s)


def best_sparse(ways: Sequence[TrainingWay]) -> TrainingWay | None:
    """Return the compressed way to choose: of those that are about as fast, the densest.

    The denser, the lower is the price in accuracy.  Pruned sums, which cost more, have to gain
    enough over exact ones.
    """
    sparse = [way for way in ways if is_sparse(way.density) and way.form.sends_gradients]
    exact = _densest([way for way in sparse if way.form.merge == "union"])
    pruned = _densest([way for way in sparse if way.form.merge != "union"])
    if exact is None or pruned is None:
        return exact or pruned
    gain = exact.step_time_s / pruned.step_time_s
    return pruned if gain >= WORTH_PRUNING else exact


def _densest(ways: Sequence[TrainingWay]) -> TrainingWay | None:
    fastest_s = min((way.step_time_s for way in ways), default=0.0)
    equal = [way for way in ways if way.step_time_s <= AS_FAST * fastest_s]
    return min(equal, key=lambda way: (-way.density, way.step_time_s), default=None)


def best_local(ways: Sequence[TrainingWay]) -> TrainingWay | None:
    """Return the fastest way that does not average in every step; None if none was considered."""
    local = [way for way in ways if not way.form.sends_gradients]
    return min(local, key=lambda way: way.step_time_s, default=None)


def pays(sparse: TrainingWay, dense: TrainingWay) -> bool:
    """Return True if compressing gains enough, at the lower end of its interval as well."""
    return dense.step_time_s / sparse.step_time_s >= WORTH and dense.step_time_s > sparse.high_s


def _choice(network: str, way: TrainingWay) -> str:
    what = "Compress" if is_sparse(way.density) else "Don't compress"
    return (
        f"{what}: on {network}, "
        f"{way.num_workers} workers with {way.label} are {times_text(way.speedup)} as fast as one "
        f"(90 % interval: {_ends(way)})."
    )


def _speedup(way: TrainingWay) -> str:
    return f"{times_text(way.speedup)} of {way.num_workers} ({_ends(way)})"


def _ends(way: TrainingWay) -> str:
    return f"{three_digits(way.speedup_low)} to {three_digits(way.speedup_high)}"


def _why_not(sparse: TrainingWay | None, dense: TrainingWay) -> Iterator[str]:
    if sparse is None:
        return
    if sparse.step_time_s * _NO_GAIN >= dense.step_time_s:
        yield "Compressing gains nothing here."
    elif dense.step_time_s < WORTH * sparse.step_time_s:
        yield f"Compressed, training would be {_gain(sparse, dense)}: too little to pay for it."
    else:
        yield f"Compressed, training would be {_gain(sparse, dense)}: too uncertain to pay for it."


def _why_not_less(ways: Sequence[TrainingWay], chosen: TrainingWay) -> Iterator[str]:
    """Say why a faster way was not chosen: it costs more accuracy."""
    usual = [way for way in ways if way.form.sends_gradients]
    fastest = min(usual, key=lambda way: way.step_time_s)
    if fastest.form != chosen.form:
        gain = chosen.step_time_s / fastest.step_time_s - 1
        more = f"{100 * gain:.1f} % faster" if gain >= _SAME else "as fast"
        less = "sends less of the gradient" if fastest.density < chosen.density else "prunes sums"
        yield f"{fastest.label} would be {more}, but {less}."


def _gain(sparse: TrainingWay, dense: TrainingWay) -> str:
    """Return the gain in speed with its interval: in per cent if small, else as a factor."""
    middle = dense.step_time_s / sparse.step_time_s
    low = dense.step_time_s / sparse.high_s
    high = dense.step_time_s / sparse.low_s
    if high < 2:  # noqa: PLR2004 - twice
        ends = f"{100 * max(low - 1, 0):.0f} to {100 * (high - 1):.0f} %"
        return f"{100 * (middle - 1):.0f} % faster ({ends})"
    return f"{times_text(middle)} as fast ({three_digits(low)} to {three_digits(high)})"


def _price(sparse: TrainingWay) -> Iterator[str]:
    price, share = PRICES.get(sparse.density), percent_text(sparse.density)
    exact = "" if sparse.form.merge == "union" else " and exact sums"
    if price is None:
        yield f"What sending {share} costs in accuracy has not been measured here."
    else:
        yield (
            f"Sending {share} has a price: ResNet-20 on Fashion-MNIST lost {price} points of "
            f"accuracy with 4 workers{exact} (measured, {SOURCE})."
        )


def _price_of_pruning(ways: Sequence[TrainingWay], chosen: TrainingWay) -> Iterator[str]:
    """Say what a pruned sum has cost, and how fast the exact one is, if it is pruned."""
    if chosen.form.merge == "union":
        return
    yield (
        f"Pruned sums ({chosen.form.merge}) cost more: at 1 % a CNN on Fashion-MNIST with 8 "
        f"workers lost another {PRUNED_PRICE} points (measured, {PRUNED_SOURCE})."
    )
    exact = [way for way in ways if way.form == replace(chosen.form, merge="union")]
    if exact:
        fastest = min(exact, key=lambda way: way.step_time_s)
        yield f"Exact sums, {fastest.label}, reach {_speedup(fastest)}."


def _local_steps(ways: Sequence[TrainingWay], chosen: TrainingWay) -> Iterator[str]:
    """Say what averaging now and then would reach, if it gains enough."""
    local = best_local(ways)
    if local is not None and local.step_time_s * WORTH <= chosen.step_time_s:
        yield (
            f"Averaging the workers' changes, {local.label}, would reach {_speedup(local)}. "
            "That is another algorithm, whose price depends on the model (docs/averaging.md)."
        )


def _upgrade(
    network: str,
    dense: TrainingWay,
    chosen: TrainingWay,
    better: Sequence[tuple[str, TrainingWay]],
) -> Iterator[str]:
    """Say what the next better network would buy, dense; the first that gains enough."""
    for name, way in better:
        if way.speedup >= WORTH * dense.speedup:
            yield (
                f"{name} would bring dense training to {_speedup(way)}"
                f"{_beside(way, network, dense, chosen)}."
            )
            return
    if better:
        yield "No faster network would gain a tenth."


def _beside(way: TrainingWay, network: str, dense: TrainingWay, chosen: TrainingWay) -> str:
    """Return how a way over a better network stands beside the chosen one, if that compresses."""
    if chosen is dense:
        return ""
    ratio = chosen.step_time_s / way.step_time_s
    if AS_FAST >= ratio >= 1 / AS_FAST:
        return f", as fast as compressing on {network}"
    if ratio > 1:
        much = f"{100 * (1 - 1 / ratio):.0f} % shorter than"
    elif ratio > 1 / 2:
        much = f"{100 * (1 / ratio - 1):.0f} % longer than"
    else:
        much = f"{times_text(1 / ratio)} as long as"
    return f", with steps {much} when compressing on {network}"
