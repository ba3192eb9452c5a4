"""The verdict: what ranked ways come to, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dgc_topo.experiments.advice.ways import TrainingWay
from dgc_topo.sizes import is_sparse
from dgc_topo.units import rate_text, three_digits, times_text

#: Gain in speed below which compressing is not worth its price in accuracy.
WORTH = 1.1
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


def verdict_of(
    ways: Sequence[TrainingWay],
    *,
    network: str,
    better: Sequence[tuple[str, TrainingWay]],
    break_even_bytes_per_s: float | None,
) -> str:
    """Return the verdict.

    Args:
        ways: The fastest first, dense ones among them.
        network: Name of the network.
        better: Names of faster networks, and the fastest dense way over each.
        break_even_bytes_per_s: See `Advice`.
    """
    return " ".join(_sentences(ways, network, better, break_even_bytes_per_s))


def _sentences(
    ways: Sequence[TrainingWay],
    network: str,
    better: Sequence[tuple[str, TrainingWay]],
    break_even_bytes_per_s: float | None,
) -> Iterator[str]:
    dense, sparse, choice = best_dense(ways), best_sparse(ways), choice_of(ways)
    yield f"{network} with {choice.label}: {_speedup(choice)}."
    if sparse is None or choice != sparse:
        yield from _why_not(sparse, dense)
    else:
        yield (
            f"Without compressing, the fastest is {dense.label}: {_speedup(dense)}. "
            f"Compressing gains {_gain(sparse, dense)}."
        )
        yield from _why_not_less(ways, sparse)
        yield from _price(sparse)
        if break_even_bytes_per_s is not None:
            yield (
                f"It gains a tenth or more while a host's port carries less than "
                f"{rate_text(8 * break_even_bytes_per_s)}."
            )
    yield from _slower_than_one(dense, sparse)
    yield from _local_steps(ways, choice)
    yield from _upgrade(dense, better)


def _slower_than_one(dense: TrainingWay, sparse: TrainingWay | None) -> Iterator[str]:
    workers = f"these {dense.num_workers} workers is slower than one worker alone"
    if max(way.speedup for way in (dense, sparse) if way is not None) < 1:
        yield f"Training on {workers}, compressed or not."
    elif dense.speedup < 1:
        yield f"Dense training on {workers}."


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

    The denser, the lower is the price in accuracy; exact sums come before pruned ones.
    """
    sparse = [way for way in ways if is_sparse(way.density) and way.form.sends_gradients]
    if not sparse:
        return None
    fastest_s = min(way.step_time_s for way in sparse)
    equal = [way for way in sparse if way.step_time_s <= AS_FAST * fastest_s]
    return min(equal, key=lambda w: (-w.density, w.form.merge != "union", w.step_time_s))


def best_local(ways: Sequence[TrainingWay]) -> TrainingWay | None:
    """Return the fastest way that does not average in every step; None if none was considered."""
    local = [way for way in ways if not way.form.sends_gradients]
    return min(local, key=lambda way: way.step_time_s, default=None)


def pays(sparse: TrainingWay, dense: TrainingWay) -> bool:
    """Return True if compressing gains enough, at the lower end of its interval as well."""
    return dense.step_time_s / sparse.step_time_s >= WORTH and dense.step_time_s > sparse.high_s


def _speedup(way: TrainingWay) -> str:
    return (
        f"{times_text(way.speedup)} of {way.num_workers} "
        f"({three_digits(way.speedup_low)} to {three_digits(way.speedup_high)})"
    )


def _why_not(sparse: TrainingWay | None, dense: TrainingWay) -> Iterator[str]:
    if sparse is None:
        return
    if sparse.step_time_s * _NO_GAIN >= dense.step_time_s:
        yield "Compressing gains nothing here: don't."
    else:
        yield f"Compressing would gain {_gain(sparse, dense)}: don't."


def _why_not_less(ways: Sequence[TrainingWay], chosen: TrainingWay) -> Iterator[str]:
    """Say why a faster way that sends less was not chosen."""
    usual = [way for way in ways if way.form.sends_gradients]
    fastest = min(usual, key=lambda way: way.step_time_s)
    if fastest.form != chosen.form:
        gain = chosen.step_time_s / fastest.step_time_s - 1
        more = f"{gain:.1%} faster" if gain >= _SAME else "as fast"
        yield f"{fastest.label} would be {more}, but sends less of the gradient."


def _gain(sparse: TrainingWay, dense: TrainingWay) -> str:
    """Return the gain in speed with its interval: in per cent if small, else as a factor."""
    middle = dense.step_time_s / sparse.step_time_s
    low = max(dense.step_time_s / sparse.high_s, 0.0)
    high = dense.step_time_s / sparse.low_s
    if high < 2:  # noqa: PLR2004 - twice
        return f"{middle - 1:.0%} ({max(low - 1, 0):.0%} to {high - 1:.0%})"
    return f"{times_text(middle)} ({three_digits(low)} to {three_digits(high)})"


def _price(sparse: TrainingWay) -> Iterator[str]:
    price = PRICES.get(sparse.density)
    exact = "" if sparse.form.merge == "union" else " and exact sums"
    if price is None:
        yield "Its price in accuracy at this density has not been measured here."
    else:
        yield (
            f"Its price: ResNet-20 on Fashion-MNIST lost {price} points of accuracy at this "
            f"density with 4 workers{exact} (measured, {SOURCE})."
        )


def _local_steps(ways: Sequence[TrainingWay], choice: TrainingWay) -> Iterator[str]:
    """Say what averaging now and then would reach, if it gains enough."""
    local = best_local(ways)
    if local is not None and local.step_time_s * WORTH <= choice.step_time_s:
        yield (
            f"Averaging the workers' changes, {local.label}, would reach {_speedup(local)}. "
            "That is another algorithm, whose price depends on the model (docs/averaging.md)."
        )


def _upgrade(dense: TrainingWay, better: Sequence[tuple[str, TrainingWay]]) -> Iterator[str]:
    """Say what the next better network would buy, dense; the first that gains enough."""
    for name, way in better:
        if way.speedup >= WORTH * dense.speedup:
            yield f"{name} would bring dense training to {_speedup(way)}."
            return
    if better:
        yield "No faster network would gain a tenth."
