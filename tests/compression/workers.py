"""N simulated workers in one process, with the sum of their payloads taken by hand."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dgc_topo.compression.compressor import Compressor
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.dgc import DGC
from dgc_topo.payload import BundlePayload, DensePayload, Payload, SparsePayload, TernaryPayload

SHAPES: dict[str, tuple[int, ...]] = {
    "conv.weight": (4, 3, 3, 3),
    "conv.bias": (4,),
    "norm.scale": (),
    "fc.weight": (5, 12),
    "fc.bias": (5,),
}

Gradients = Mapping[str, Tensor]


def model(seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator).requires_grad_()
        for name, shape in shapes.items()
    }


def random_like(
    parameters: Gradients, generator: torch.Generator, scale: float = 1.0
) -> dict[str, Tensor]:
    return {n: scale * torch.randn(p.shape, generator=generator) for n, p in parameters.items()}


def constant(config: DGCConfig | None = None, **settings: object) -> DGCConfig:
    """Return settings without a warm-up."""
    return DGCConfig(**{"warm_up": "none", **settings})  # type: ignore[arg-type]


def add_up(payloads: Sequence[Payload]) -> Payload:
    """Return the sum of one payload per rank, in rank order."""
    first = payloads[0]
    if isinstance(first, BundlePayload):
        return BundlePayload([add_up(parts) for parts in zip(*map(parts_of, payloads))])  # noqa: B905
    if isinstance(first, DensePayload):
        return DensePayload(torch.stack([buffer_of(p) for p in payloads]).sum(0))
    if isinstance(first, TernaryPayload):
        given = [p.given for p in payloads if isinstance(p, TernaryPayload)]
        first.given = dict(pair for each in given for pair in each.items())
        return first
    sparse = [p for p in payloads if isinstance(p, SparsePayload)]
    assert len(sparse) == len(payloads)
    total = torch.stack([p.to_dense() for p in sparse]).sum(0)
    indices = torch.cat([p.indices for p in sparse]).unique()
    return SparsePayload(indices, total[indices], sparse[0].length)


def parts_of(payload: Payload) -> tuple[Payload, ...]:
    assert isinstance(payload, BundlePayload)
    return payload.parts


def buffer_of(payload: Payload) -> Tensor:
    assert isinstance(payload, DensePayload)
    return payload.buffer


def sparse_of(payload: Payload) -> SparsePayload:
    sparse = parts_of(payload)[0]
    assert isinstance(sparse, SparsePayload)
    return sparse


def step(ranks: Sequence[Compressor], gradients: Sequence[Gradients]) -> list[dict[str, Tensor]]:
    """Run one step and return every rank's updates."""
    total = add_up([r.compress(g) for r, g in zip(ranks, gradients, strict=True)])
    return [rank.finish(total) for rank in ranks]


@torch.no_grad()
def apply(parameters: Gradients, updates: Gradients, lr: float) -> None:
    for name, parameter in parameters.items():
        parameter.sub_(updates[name], alpha=lr)


def quadratics(num_workers: int, parameters: Gradients) -> list[Callable[[Gradients], Gradients]]:
    """Return each worker's gradient of its own quadratic, divided by *num_workers*."""

    def worker(seed: int) -> Callable[[Gradients], Gradients]:
        generator = torch.Generator().manual_seed(seed)
        curvature = random_like(parameters, generator)
        centre = random_like(parameters, generator)

        def gradient(at: Gradients) -> Gradients:
            return {n: curvature[n].abs() * (at[n].detach() - centre[n]) / num_workers for n in at}

        return gradient

    return [worker(seed) for seed in range(1, num_workers + 1)]


def dgc_ranks(num_workers: int, parameters: Gradients, config: DGCConfig) -> list[DGC]:
    return [DGC(parameters, num_workers=num_workers, config=config) for _ in range(num_workers)]
