"""Estimates per rank or per edge, for compressed gossip: a small experiment on noisy quadratics.

    python -m benchmarks.gossip_edges

Eight ranks minimise quadratics of 1,000 elements with different minima, by SGD on noisy gradients;
each sends 1 % of the elements to each of its neighbours.  Per rank, one estimate serves all
neighbours of a ring (CHOCO).  Per edge, both ends of each edge keep two of their own: the same
selection, or one that prefers elements in which the two ends differ; or random pairs, which only
estimates per edge allow.  Bytes are counted as entries that a rank sends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Score = Callable[[Array, Array, Array], Array]  #: of own values, one's estimate, the other's

NUM_RANKS, SIZE, DENSITY, ENTRIES_PER_RANK = 8, 1000, 0.01, 40_000
RATE, NOISE = 0.05, 0.3
STEPS = 0.1, 0.3, 0.9  #: consensus steps, of which the best counts


class Outcome(NamedTuple):
    """Root mean squares over ranks and elements, mean of the last tenth of the steps."""

    apart: float
    off: float


class Edges:
    """Estimates of both ends of every pair of ranks, and exchanges over some of them."""

    def __init__(self, score: Score, step: float) -> None:
        self._score, self._step = score, step
        self._known = np.zeros((NUM_RANKS, NUM_RANKS, SIZE))  # [i, j]: what j knows of i

    def exchange(self, x: Array, pairs: list[tuple[int, int]], weight: float) -> None:
        """Send both ways over *pairs*, and move the ends of each towards each other."""
        known = self._known
        for i, j in pairs:
            for a, b in ((i, j), (j, i)):
                chosen = _largest(self._score(x[a], known[a, b], known[b, a]))
                known[a, b, chosen] = x[a, chosen]
        moved = x.copy()
        for i, j in pairs:
            gap = known[j, i] - known[i, j]
            moved[i] += self._step * weight * gap
            moved[j] -= self._step * weight * gap
        x[:] = moved


def run(name: str, seed: int, consensus_step: float) -> Outcome:
    """Return the outcome of one way, after so many entries per rank."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(NUM_RANKS, SIZE)) * np.geomspace(3, 0.03, SIZE)
    curvature = rng.uniform(0.5, 1.5, SIZE)
    optimum = centres.mean(0)
    x = np.zeros((NUM_RANKS, SIZE))
    ring = [(i, (i + 1) % NUM_RANKS) for i in range(NUM_RANKS)]
    edges = Edges(_differing if name.endswith("differing") else _unsent, consensus_step)
    estimate = np.zeros_like(x)
    per_step = (1 if "pairs" in name else 2) * round(DENSITY * SIZE)
    num_steps = ENTRIES_PER_RANK // per_step
    found = []
    for step in range(num_steps):
        gradient = curvature * (x - centres) + NOISE * rng.normal(size=x.shape)
        x -= RATE * gradient
        if name == "per rank, ring":
            for rank in range(NUM_RANKS):
                chosen = _largest(np.abs(x[rank] - estimate[rank]))
                estimate[rank, chosen] = x[rank, chosen]
            around = np.roll(estimate, 1, 0) + np.roll(estimate, -1, 0) - 2 * estimate
            x += consensus_step * around / 3
        elif "pairs" in name:
            order = rng.permutation(NUM_RANKS)
            pairs = list(zip(order[::2].tolist(), order[1::2].tolist(), strict=True))
            edges.exchange(x, pairs, 1 / 2)
        else:
            edges.exchange(x, ring, 1 / 3)
        if step >= 0.9 * num_steps:
            found.append((((x - x.mean(0)) ** 2).mean() ** 0.5, ((x - optimum) ** 2).mean() ** 0.5))
    apart, off = np.array(found).mean(0).tolist()
    return Outcome(apart, off)


def _largest(scores: Array) -> npt.NDArray[np.int64]:
    count = round(DENSITY * SIZE)
    return np.argpartition(scores, len(scores) - count)[-count:]


def _unsent(own: Array, known: Array, other: Array) -> Array:
    del other
    return np.abs(own - known)


def _differing(own: Array, known: Array, other: Array) -> Array:
    """Prefer what is both unsent and different at the other end."""
    return np.abs(own - known) * np.abs(own - other)


def main() -> None:
    """Print a row per way: means of three seeds, with the best consensus step."""
    print("| way | consensus step | apart | off the optimum |\n| :--- | ---: | ---: | ---: |")
    for name in (
        "per rank, ring",
        "per edge, ring",
        "per edge, ring, differing",
        "per edge, pairs",
        "per edge, pairs, differing",
    ):
        means = {
            step: np.nan_to_num(
                np.array([run(name, seed, step) for seed in range(3)]).mean(0), nan=np.inf
            ).tolist()
            for step in STEPS
        }
        best = min(STEPS, key=lambda step: means[step][1])
        apart, off = means[best]
        print(f"| {name} | {best} | {apart:.3f} | {off:.3f} |", flush=True)


if __name__ == "__main__":
    main()
