"""The GPU's kernels beside the plain operations, bit for bit; a script that needs Triton.

With TRITON_INTERPRET=1 it runs on a CPU, kernels and all; without, on the first GPU.
"""

import itertools
import math
import os
from typing import Any
from unittest import mock

import torch

from dgc_topo.compression.accumulation import Accumulation
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.gpu import accumulation, candidates, threshold
from dgc_topo.compression.gpu.accumulation import FusedAccumulation, FusedNorm
from dgc_topo.compression.gpu.threshold import FusedThreshold, Search
from dgc_topo.compression.layout import FlatLayout, Groups
from dgc_topo.compression.selection import top_k
from dgc_topo.compression.threshold import Goal

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
SHAPES = {"a": (30, 20), "none": (0, 4), "b": (3, 3), "c": (50, 11), "d": (1, 1), "e": (0, 1)}
LAYOUT = FlatLayout.of({name: torch.empty(shape) for name, shape in SHAPES.items()})
LAWS: tuple[dict[str, bool], ...] = (
    {},
    {"nesterov": True},
    {"momentum_correction": False},
    {"accumulation": False},
)
BLOCK = 128  # small, so that tensors have whole blocks and parts of one

Gradients = dict[str, torch.Tensor]


def randoms(generator: torch.Generator, dtype: torch.dtype, *, ties: bool = False) -> Gradients:
    """Return a tensor of noise for each shape; few different values with *ties*, many of them 0."""
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return {
        name: (torch.round(noise / 2) if ties else noise).to(DEVICE, dtype)
        for name, noise in drawn.items()
    }


class Pair:
    """Both ways of accumulating and selecting, held to each other in every step."""

    def __init__(
        self, *, whole: bool, density: float = 0.02, reuse: bool = True, **law: bool
    ) -> None:
        config = DGCConfig(warm_up="none", **law)  # type: ignore[arg-type]
        self.plain = Accumulation(LAYOUT, DEVICE, config)
        self.fused = FusedAccumulation(LAYOUT, DEVICE, config, block=BLOCK)
        self.groups = Groups.whole(LAYOUT) if whole else Groups.per_layer(LAYOUT)
        self.selector = FusedThreshold(self.groups, self.fused.blocks, reuse=reuse)
        self.density = density

    def step(self, *terms: tuple[Gradients, float]) -> bool:
        """Return whether candidates were listed on the way; the first step has no threshold yet."""
        self.plain.add(*terms)
        listed = self.selector.begin(self.density)
        self.fused.add(*terms, pool=listed)
        assert self.fused.velocity.equal(self.plain.velocity)
        assert self.fused.residual.equal(self.plain.residual)
        indices = self.selector.pick(self.fused.residual, self.density)
        expected = top_k(self.plain.residual, self.groups, self.density)
        assert indices.equal(expected), (indices, expected)
        assert self.fused.take(indices).equal(self.plain.take(indices))
        assert self.fused.velocity.equal(self.plain.velocity)
        assert self.fused.residual.equal(self.plain.residual)
        return listed is not None


def _some(ways: list[Any]) -> list[Any]:
    """Return all ways on a GPU; interpreted, where each takes seconds, every third and the last."""
    return ways if DEVICE.type == "cuda" else [*ways[:-1:3], ways[-1]]


def check_laws() -> None:
    """Every law, type and grouping, without and with a second term and ties."""
    flags = (False, True)
    ways = itertools.product((torch.float32, torch.bfloat16), flags, flags)
    for law, (dtype, whole, decays) in _some(list(itertools.product(LAWS, ways))):
        pair = Pair(whole=whole, **law)
        generator = torch.Generator().manual_seed(5)
        weights = randoms(generator, dtype)
        picked = []
        for _ in range(3):
            terms = [(randoms(generator, dtype, ties=decays), 0.3 if decays else 1.0)]
            if decays:
                terms.append((weights, 0.01))
            picked.append(pair.step(*terms))
        assert picked == [False, True, True]


def check_wild_steps() -> None:
    """Residuals that shrink, grow, vanish or are alike: too few candidates, too many, none."""
    # In the second, a chunk has fewer places than there are groups, and a list little room.
    few = 4 if DEVICE.type == "cpu" else 128
    ways = itertools.product((False, True), ((64, 4.0, 256), (few, 1.0, 3)))
    for whole, (chunk, room, spare) in _some(list(ways)):
        with (
            mock.patch.object(candidates, "CHUNK", chunk),
            mock.patch.object(
                candidates, "_GENEROUS", candidates._Plan(room, Goal(2.0, 3.0, 32.0, 0.0))
            ),
            mock.patch.object(candidates, "_SPARE_ROOM", spare),
        ):
            pair = Pair(whole=whole, accumulation=False)
            generator = torch.Generator().manual_seed(6)
            for factor in (1.0, 1e-3, 1e3, 1.0, 0.0, 0.0, 1.0, 1e-2, 1e-2, 1e30, 1e-30):
                pair.step((randoms(generator, torch.float32), factor))
            ones = {name: torch.ones(shape, device=DEVICE) for name, shape in SHAPES.items()}
            pair.step((ones, 1.0))
            pair.step((ones, 1.0))


def check_densities() -> None:
    """Much is sent, as in a warm-up, less in the next step, and by searches only."""
    for reuse, whole in _some(list(itertools.product((False, True), (False, True)))):
        pair = Pair(whole=whole, reuse=reuse)
        generator = torch.Generator().manual_seed(9)
        for density in (0.25, 0.25, 0.25, 0.0625, 0.0625, 0.999):
            pair.density = density
            listed = pair.step((randoms(generator, torch.float32, ties=whole), 1.0))
            assert reuse or not listed


def check_search() -> None:
    """Thresholds from nothing let what is wanted pass, and what hardly differs from it."""
    blocks = FusedAccumulation(LAYOUT, DEVICE, DGCConfig(), block=BLOCK).blocks
    generator = torch.Generator().manual_seed(11)
    for whole, ties, scale in itertools.product((False, True), (False, True), (1.0, 1e-30, 1e30)):
        groups = Groups.whole(LAYOUT) if whole else Groups.per_layer(LAYOUT)
        residual = LAYOUT.flatten(randoms(generator, torch.float32, ties=ties), DEVICE) * scale
        lists = candidates.Lists(groups, groups.counts(0.3), blocks)
        searched = torch.arange(groups.num_groups, device=DEVICE) % 3 == 0
        found = Search(groups, DEVICE).thresholds(residual, lists, searched)
        for group, least in enumerate(found.tolist()):
            part = residual[slice(*groups.offsets[group : group + 2])].abs()
            wanted = groups.counts(0.3)[group] if searched[group] else 0
            if not wanted:
                assert least == math.inf
                continue
            limit = float(part.sort(descending=True).values[wanted - 1])
            assert int((part > least).sum()) >= min(wanted, int(part.count_nonzero()))
            assert limit * (1 - 2**-15) <= least <= limit, (least, limit)


def check_bounds() -> None:
    """Of candidates that are all equal none is written where the memory ends."""
    pair = Pair(whole=True, density=0.9, accumulation=False)
    gradients = {name: torch.ones(shape, device=DEVICE) for name, shape in SHAPES.items()}
    pair.step((gradients, 1.0))
    pair.selector.tail.slack.fill_(0.9)  # so that all pass
    listed = pair.selector.begin(pair.density)
    assert listed is not None
    pair.fused.add((gradients, 1.0), pool=listed)
    wanted = listed.lists.num_wanted
    memory = torch.full((wanted + 8,), -1, dtype=torch.int64, device=DEVICE)
    listed.select(memory[:wanted])
    assert memory[:wanted].equal(top_k(pair.fused.residual, pair.groups, pair.density))
    assert bool((memory[wanted:] == -1).all())


def check_other_gradients() -> None:
    """Gradients of several types, and some that are not contiguous."""
    pair = Pair(whole=False)
    generator = torch.Generator().manual_seed(7)
    for step in range(4):
        gradients = randoms(generator, torch.float32)
        if step % 2:
            gradients["c"] = gradients["c"].t().contiguous().t()
        else:
            gradients["a"] = gradients["a"].to(torch.float16)
        pair.step((gradients, 1.0))


def check_shares() -> None:
    """On a 16-bit wire the residual keeps what exceeds a rank's share of the range."""
    generator = torch.Generator().manual_seed(10)
    config = DGCConfig(density=0.1)
    # Triton's interpreter cuts bfloat16 off where a GPU rounds.
    types = (torch.float16, torch.bfloat16) if DEVICE.type == "cuda" else (torch.float16,)
    for num_workers, dtype in itertools.product((1, 5), types):
        plain = Accumulation(LAYOUT, DEVICE, config, num_workers=num_workers)
        fused = FusedAccumulation(LAYOUT, DEVICE, config, num_workers=num_workers, block=BLOCK)
        gradients = randoms(generator, torch.float32), 1e5
        indices = torch.arange(0, LAYOUT.length, 7, device=DEVICE)
        for each in (plain, fused):
            each.add(gradients)
        assert fused.send(indices, dtype).equal(plain.send(indices, dtype))
        assert fused.residual.equal(plain.residual)
        assert bool(plain.residual[indices].any())


def check_norm() -> None:
    """The norm of all tensors together; what is not finite has none."""
    generator = torch.Generator().manual_seed(8)
    gradients = randoms(generator, torch.float32)
    with mock.patch.object(accumulation, "_NORM_BLOCK", BLOCK):
        quick = FusedNorm(gradients, DEVICE)
        flat = torch.cat([gradient.flatten() for gradient in gradients.values()])
        found = quick(gradients)
        assert found is not None
        assert math.isclose(found, float(flat.double().norm()), rel_tol=1e-6)
        for bad in (math.nan, math.inf, -math.inf):
            broken = {name: gradient.clone() for name, gradient in gradients.items()}
            broken["c"][49, 10] = bad
            assert quick(broken) is None
        assert quick({**gradients, "a": gradients["a"].half()}) is None


def main() -> None:
    """Check everything, and say so."""
    check_norm()
    check_shares()
    # Small, so that a list takes several programs.
    with (
        mock.patch.object(candidates, "CHUNK", 64),
        mock.patch.object(threshold, "CHUNK", 64),
        mock.patch.object(threshold, "_CHUNKS", 2),
    ):
        check_search()
        check_laws()
        check_wild_steps()
        check_densities()
        check_bounds()
        check_other_gradients()
    print("fused equals plain")  # noqa: T201


if __name__ == "__main__":
    main()
