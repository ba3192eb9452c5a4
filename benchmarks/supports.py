"""Supports of a real training: what each worker of a CNN on Fashion-MNIST sends, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

import dgc_topo as dt
from dgc_topo.payload import BundlePayload, Entries, Payload, SparsePayload
from dgc_topo.runtime import run_in_process
from dgc_topo.sizes import is_compressed
from dgc_topo.training.data import load_dataset
from dgc_topo.training.models import build_model

_BATCH, _LEARNING_RATE = 16, 0.05


@dataclass(frozen=True)
class Supports:
    """Entries of one step.

    Attributes:
        step: Number of the step, from 0.
        entries: Those that each worker sends, of the compressed tensors.
        offsets: First element of each compressed tensor, then the length.
        counts: Entries that a worker sends of each.
    """

    step: int
    entries: tuple[Entries, ...]
    offsets: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def length(self) -> int:
        """Elements of the compressed tensors."""
        return self.offsets[-1]

    @property
    def k(self) -> int:
        """Entries that one worker sends."""
        return sum(self.counts)


def sparse_part(payload: Payload) -> SparsePayload:
    """Return the sparse part of what `dt.DGC.compress` returned."""
    assert isinstance(payload, BundlePayload)
    part = payload.parts[0]
    assert isinstance(part, SparsePayload)
    return part


def trained_supports(
    num_workers: int, density: float, num_steps: int, seed: int = 0
) -> Iterator[Supports]:
    """Train a CNN on virtual workers, by DGC with exact sums, and yield what they send.

    Args:
        num_workers: Number of workers; each has images of its own.
        density: Fraction of each compressed tensor that a worker sends.
        num_steps: Number of steps.
        seed: Of the model and of the images' order.
    """
    torch.manual_seed(seed)
    dataset = load_dataset("fashion-mnist-subset")
    model = build_model("cnn", dataset, seed=seed)
    parameters = dict(model.named_parameters())
    config = dt.DGCConfig(density=density, warm_up="none")
    ranks = [dt.DGC(parameters, num_workers=num_workers, config=config) for _ in range(num_workers)]
    schedule = dt.load_topology("mesh").schedule(num_workers)
    shapes = [p.shape for p in parameters.values() if is_compressed(p.shape)]
    offsets = (0, *torch.tensor([shape.numel() for shape in shapes]).cumsum(0).tolist())
    order = torch.Generator().manual_seed(seed)
    for step in range(num_steps):
        payloads = []
        for rank in ranks:
            picked = torch.randint(len(dataset.train), (_BATCH,), generator=order)
            inputs = dataset.normalise(dataset.train.gather(picked))
            model.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs), dataset.train.labels[picked])
            (loss / num_workers).backward()  # type: ignore[no-untyped-call]
            payloads.append(rank.compress({name: p.grad for name, p in parameters.items()}))
        entries = tuple(Entries(part.indices, part.values) for part in map(sparse_part, payloads))
        bounds = torch.tensor(offsets)
        ends = torch.searchsorted(entries[0].indices, bounds)
        yield Supports(step, entries, offsets, tuple(ends.diff().tolist()))
        run_in_process(schedule, payloads)
        with torch.no_grad():
            for name, update in ranks[0].finish(payloads[0]).items():
                parameters[name].sub_(update, alpha=_LEARNING_RATE)
