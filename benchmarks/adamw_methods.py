"""Ways to train with AdamW on N virtual workers, dense and compressed, each one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.optimizer import ParamsT

from benchmarks.char_transformer import Workers
from dgc_topo.compression import DGC, DGCConfig, UpdateCompressor
from dgc_topo.compression.density import geometric_warm_up
from dgc_topo.payload import Payload
from dgc_topo.runtime import run_in_process
from dgc_topo.sizes import FLOAT_BYTES
from dgc_topo.topology import load_topology

CLIP_NORM = 1.0
_BETAS, _WEIGHT_DECAY = (0.9, 0.99), 0.1
_STAGES = 8  # of the density's warm-up, as in `UpdateCompressor`


class Method(Protocol):
    """A way to train; between two steps the model holds the parameters that all ranks share."""

    def step(self, lr: float) -> float:
        """Take one step at learning rate *lr*; return the bytes of a worker's own message."""

    def flush(self) -> None:
        """Apply whatever is late; called once, after the last step."""


def adamw(parameters: ParamsT) -> AdamW:
    """Return the optimizer that every method uses; the step sets its learning rate."""
    return AdamW(parameters, lr=1.0, betas=_BETAS, weight_decay=_WEIGHT_DECAY, fused=True)


class GradientMethod:
    """One AdamW, as it would be on every rank, on a sum of what the ranks made of their gradients.

    Args:
        workers: Virtual workers.
    """

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self._optimizer = adamw(workers.model.parameters())

    def flush(self) -> None:
        """Do nothing: what is late was never put through the optimizer."""

    def own_gradients(self, rank: int) -> dict[str, Tensor]:
        """Return a rank's clipped gradient, divided by N."""
        self.workers.differentiate(rank)
        torch.nn.utils.clip_grad_norm_(self.workers.model.parameters(), CLIP_NORM)
        return {n: g / self.workers.num_workers for n, g in self.workers.gradients().items()}

    def apply(self, summed: Mapping[str, Tensor], lr: float, *, clip: bool) -> None:
        """Let the optimizer use the sum, clipped as a whole or not."""
        for name, parameter in self.workers.parameters.items():
            parameter.grad = summed[name]
        if clip:
            torch.nn.utils.clip_grad_norm_(self.workers.model.parameters(), CLIP_NORM)
        take_step(self._optimizer, lr)


class Dense(GradientMethod):
    """The mean gradient, clipped."""

    def step(self, lr: float) -> float:
        """Take one step."""
        total: dict[str, Tensor] = {}
        for rank in range(self.workers.num_workers):
            self.workers.differentiate(rank)
            for name, gradient in self.workers.gradients().items():
                part = gradient / self.workers.num_workers
                total[name] = total[name] + part if name in total else part
        self.apply(total, lr, clip=True)
        return float(FLOAT_BYTES * sum(p.numel() for p in total.values()))


class GradientTopK(GradientMethod):
    """The largest elements of the clipped gradients, with a residual: AdamW sees the sparse sum.

    Args:
        workers: Virtual workers.
        density: Fraction sent after the warm-up.
        warm_up_steps: Steps of the density's warm-up.
    """

    def __init__(self, workers: Workers, density: float, warm_up_steps: int) -> None:
        super().__init__(workers)
        config = DGCConfig(density=density, momentum=0.0, masking=False, warm_up="none")
        warm_up = geometric_warm_up(density, warm_up_steps, _STAGES) if warm_up_steps else None
        self._ranks = [
            DGC(
                workers.model,
                num_workers=workers.num_workers,
                config=config,
                density_schedule=warm_up,
            )
            for _ in range(workers.num_workers)
        ]
        self._step = 0

    def step(self, lr: float) -> float:
        """Take one step."""
        payloads = []
        for rank, compressor in enumerate(self._ranks):
            compressor.set_progress(self._step)
            payloads.append(compressor.compress(self.own_gradients(rank)))
        self._step += 1
        num_bytes = summed(payloads)
        # A clip of the spiky sum only costs: 2.32 against 2.20 in the first try.
        self.apply(self._ranks[0].finish(payloads[0]), lr, clip=False)
        return num_bytes


class PowerSGD(GradientMethod):
    """Low-rank gradients with error feedback (Vogels, Karimireddy, Jaggi, NeurIPS 2019, section 3).

    Per matrix M of a rank, its error included: P is the mean of M Q over the ranks, made
    orthonormal; Q becomes the mean of M' P; the gradient is P Q', and each rank keeps M - P Q'.
    Q is kept from step to step.  Tensors with one dimension travel dense.

    Args:
        workers: Virtual workers.
        rank: Columns of P and Q.
    """

    def __init__(self, workers: Workers, rank: int) -> None:
        super().__init__(workers)
        generator = torch.Generator().manual_seed(0)
        matrices = {n: p for n, p in workers.parameters.items() if p.dim() > 1}
        self._right = {
            n: torch.randn(p.shape[1], rank, generator=generator) for n, p in matrices.items()
        }
        self._errors = [
            {n: torch.zeros_like(p) for n, p in matrices.items()}
            for _ in range(workers.num_workers)
        ]

    @torch.no_grad()
    def step(self, lr: float) -> float:
        """Take one step."""
        count = self.workers.num_workers
        with torch.enable_grad():
            own = [self._raw(rank) for rank in range(count)]
        total, sent = {}, 0
        for name in own[0]:
            parts = [gradients[name] for gradients in own]
            if name not in self._right:
                total[name] = torch.stack(parts).mean(0)
                sent += parts[0].numel()
                continue
            with_errors = [g + e[name] for g, e in zip(parts, self._errors, strict=True)]
            total[name] = self._low_rank(name, with_errors)
            for error, matrix in zip(self._errors, with_errors, strict=True):
                error[name] = matrix - total[name]
            sent += sum(total[name].shape) * self._right[name].shape[1]
        self.apply(total, lr, clip=True)
        return float(FLOAT_BYTES * sent)

    def _raw(self, rank: int) -> dict[str, Tensor]:
        self.workers.differentiate(rank)
        return self.workers.gradients()

    def _low_rank(self, name: str, matrices: list[Tensor]) -> Tensor:
        left = torch.stack([m @ self._right[name] for m in matrices]).mean(0)
        left = torch.linalg.qr(left).Q
        self._right[name] = torch.stack([m.T @ left for m in matrices]).mean(0)
        product: Tensor = left @ self._right[name].T
        return product


class UpdateTopK:
    """Each rank's own AdamW on its own gradient; what it changed is compressed.

    Args:
        workers: Virtual workers.
        density: Fraction sent after the warm-up.
        warm_up_steps: Steps of the density's warm-up.
        look_ahead: Share of its residual that a rank adds to the shared parameters.
    """

    def __init__(
        self, workers: Workers, density: float, warm_up_steps: int, *, look_ahead: float
    ) -> None:
        self.workers = workers
        self._ranks = [
            UpdateCompressor(
                workers.model,
                num_workers=workers.num_workers,
                density=density,
                warm_up_steps=warm_up_steps,
                look_ahead=look_ahead,
            )
            for _ in range(workers.num_workers)
        ]
        self._optimizers = [adamw(workers.model.parameters()) for _ in self._ranks]
        self._shared = {n: p.detach().clone() for n, p in workers.parameters.items()}

    def step(self, lr: float) -> float:
        """Take one step."""
        payloads = [
            compressor.compress(self._update(rank, lr))
            for rank, compressor in enumerate(self._ranks)
        ]
        num_bytes = summed(payloads)
        self._move(self._ranks[0].finish(payloads[0]))
        return num_bytes

    def flush(self) -> None:
        """Let all ranks send all that is left, as before an evaluation or a checkpoint."""
        nothing = dict.fromkeys(self.workers.parameters)
        payloads = [rank.compress(nothing, density=1.0) for rank in self._ranks]
        summed(payloads)
        self._move(self._ranks[0].finish(payloads[0]))

    def _update(self, rank: int, lr: float) -> dict[str, Tensor]:
        """Return what a rank's optimizer changes."""
        model = self.workers.parameters
        before = self._shared
        if self._ranks[rank].look_ahead:
            ahead = self._ranks[rank].ahead()
            before = {n: s + ahead[n] for n, s in self._shared.items()}
        put(model, before)
        self.workers.differentiate(rank)
        torch.nn.utils.clip_grad_norm_(model.values(), CLIP_NORM)
        take_step(self._optimizers[rank], lr)
        return {n: p.detach() - before[n] for n, p in model.items()}

    def _move(self, changes: Mapping[str, Tensor]) -> None:
        for name, change in changes.items():
            self._shared[name] += change
        put(self.workers.parameters, self._shared)


@torch.no_grad()
def put(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy values into the parameters of these names."""
    torch._foreach_copy_(list(parameters.values()), [values[name] for name in parameters])


def take_step(optimizer: AdamW, lr: float) -> None:
    """Take one step of an optimizer at this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()


def summed(payloads: list[Payload]) -> float:
    """Sum one payload per rank in place; return the mean bytes of a rank's own."""
    num_bytes = sum(payload.encoded_bytes() for payload in payloads) / len(payloads)
    schedule = load_topology("parameter-server").schedule(len(payloads))
    run_in_process(schedule, payloads)
    return num_bytes


#: Makers of methods by name: functions of the workers, the density, and the density's warm-up.
METHODS: Mapping[str, Callable[[Workers, float, int], Method]] = {
    "dense": lambda workers, *_: Dense(workers),
    "powersgd": lambda workers, *_: PowerSGD(workers, rank=1),
    "gradient": GradientTopK,
    "update": partial(UpdateTopK, look_ahead=0.0),
    "update, half ahead": partial(UpdateTopK, look_ahead=0.5),
}
