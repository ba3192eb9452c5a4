"""The fused kernel beside the plain operations, bit for bit; a script that needs Triton.

With TRITON_INTERPRET=1 it runs on a CPU, kernel and all; without, on the first GPU.
"""

import itertools
import os

import torch

from dgc_topo.compression import fused as fused_module
from dgc_topo.compression.accumulation import Accumulation
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.fused import FusedAccumulation
from dgc_topo.compression.groups import Groups
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.selection import top_k
from dgc_topo.compression.threshold import Threshold

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
SHAPES = {"a": (30, 20), "none": (0, 4), "b": (3, 3), "c": (50, 11), "d": (1, 1)}
LAWS: tuple[dict[str, bool], ...] = (
    {},
    {"nesterov": True},
    {"momentum_correction": False},
    {"accumulation": False},
)
BLOCK = 128  # small, so that tensors have whole blocks and parts of one


def randoms(generator: torch.Generator, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return a tensor of noise for each shape."""
    return {
        name: torch.randn(shape, generator=generator).to(DEVICE, dtype)
        for name, shape in SHAPES.items()
    }


def check(law: dict[str, bool], dtype: torch.dtype, *, whole: bool, decays: bool) -> None:
    """Train with both for some steps and compare everything after each."""
    config = DGCConfig(warm_up="none", **law)  # type: ignore[arg-type]
    layout = FlatLayout.of({name: torch.empty(shape) for name, shape in SHAPES.items()})
    plain = Accumulation(layout, DEVICE, config)
    fused = FusedAccumulation(layout, DEVICE, config, block=BLOCK)
    groups = Groups.whole(layout) if whole else Groups.per_layer(layout)
    selector = Threshold(groups, DEVICE)
    generator = torch.Generator().manual_seed(5)
    weights = randoms(generator, dtype)
    for step in range(4):
        terms = [(randoms(generator, dtype), 0.3 if decays else 1.0)]
        if decays:
            terms.append((weights, 0.01))
        plain.add(*terms)
        pool = selector.begin(0.02)
        assert (pool is None) == (step == 0), "the kernel has to scan from the second step on"
        fused.add(*terms, pool=pool)
        assert fused.velocity.equal(plain.velocity), (law, dtype, step)
        assert fused.residual.equal(plain.residual), (law, dtype, step)
        indices = selector.pick(fused.residual, 0.02)
        assert indices.equal(top_k(plain.residual, groups, 0.02)), (law, dtype, step)
        assert fused.take(indices).equal(plain.take(indices))


def main() -> None:
    """Check every law, type and grouping, and lists of candidates that overflow."""
    ways = itertools.product(LAWS, (torch.float32, torch.bfloat16), (False, True), (False, True))
    for law, dtype, whole, decays in ways:
        check(law, dtype, whole=whole, decays=decays)
    fused_module._SPARE = -90  # of about 100: hardly any candidate fits
    check({}, torch.float32, whole=False, decays=False)
    print("fused equals plain")  # noqa: T201


if __name__ == "__main__":
    main()
