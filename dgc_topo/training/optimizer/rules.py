"""Rules: the ways from every rank's gradient to the step that an optimizer makes.

========================  ========================================================================
rule                      one step
========================  ========================================================================
average                   The gradient's mean over the ranks; then the optimizer's own step.
momentum correction       DGC: the momentum moves into the compressor, before the selection.
update                    The optimizer's own step on the rank's own gradient; the *change* of the
                          parameters is compressed, with a residual, and averaged.
gossip                    D-PSGD: a mixture with the neighbours' parameters; then the optimizer's
                          own step on the rank's own gradient.
another averaging rule    The optimizer's own steps, and an exchange in every H-th of them.
========================  ========================================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.gradients import (
    NonFiniteGradientError,
    checked_norm,
    clip_factor,
    whole_gradients,
)
from dgc_topo.compression.layout import FlatBuffer, FlatLayout
from dgc_topo.payload import SUM, DensePayload
from dgc_topo.training.buckets import gradients_of
from dgc_topo.training.marks import NUM_MARKS, check_marks, marks_of, number_of
from dgc_topo.training.optimizer.hyperparameters import GroupNumber
from dgc_topo.training.own_group import OwnGroup

Parameters = Mapping[str, nn.Parameter]

# Places in the flat buffer, beside those of parameters:
_USED, _MARKS = "used by its own gradient", "marks of this rank"


class Rule(ABC):
    """One rank's side of a rule.

    Args:
        where: Name of the owner in errors.
        optimizer: The user's own.
        own: The ranks, and the topology between them.
        config: Settings of the compression; `momentum` and `weight_decay` are the optimizer's.

    Attributes:
        name: Name in errors, snapshots and tables.
        parameters: Those that are trained now, by name, in the order of names: that of an optimizer
            may be another on each rank, as of one that was made from a set.
        groups: The same, by the optimizer's groups.
    """

    name: str

    def __init__(self, where: str, optimizer: Optimizer, own: OwnGroup, config: DGCConfig) -> None:
        self.where, self.optimizer, self.own = where, optimizer, own
        # Clipping is over all parameters, and done here.
        self.config, self.clip_norm = replace(config, clip_norm=None), config.clip_norm
        self.groups: Sequence[Parameters] = ()
        self.parameters: Parameters = {}
        self._group_number = GroupNumber(optimizer)

    def train(self, groups: Sequence[Parameters]) -> None:
        """Train these parameters from now on.

        Args:
            groups: Those of each of the optimizer's groups, by name; frozen ones left out.
        """
        self.groups = groups
        self.parameters = dict(sorted((name, p) for group in groups for name, p in group.items()))
        self._trained = [number_of(group) if group else 0 for group in groups]

    def marks(self, iteration: int, progress: int) -> list[bool]:
        """Return what all ranks must have alike in a step; see `step` for the arguments."""
        return marks_of(iteration, progress, self._group_number.now(self._trained))

    @property
    def was_set(self) -> bool:
        """True if the script has set parameters that ranks share since the last exchange."""
        return False

    def start(self) -> None:  # noqa: B027  most rules keep no parameters
        """Begin with the parameters as they are: all ranks have the same now."""

    def shared(self) -> Mapping[str, Tensor]:
        """Return parameters that all ranks share, by name, where the model's are the rank's own.

        Every rank calls it: in gossip they have to be averaged.
        """
        return {}

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Put the shared parameters into the model while a block runs; every rank enters it."""
        shared = self.shared()
        held = {name: self.parameters[name].detach().clone() for name in shared}
        try:
            self._set(shared)
            yield
        finally:
            self._set(held)

    def state(self) -> dict[str, Any]:
        """Return a snapshot of the rule's own state; empty if it has none."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot.

        Raises:
            ValueError: if it does not fit; nothing is loaded then.
        """
        if state:
            raise ValueError(f"{self.where} state: {sorted(state)}, expected none of its own")

    def describe(self) -> str:
        """Describe the parameters that are compressed and those that are not."""
        elements = sum(p.numel() for p in self.parameters.values())
        return f"all {elements:,} elements of {len(self.parameters)} tensors travel dense"

    def check(self) -> None:  # noqa: B027  most rules have nothing to refuse
        """Refuse what has been done to the optimizer since, before anything is sent.

        Raises:
            ValueError: if the rule cannot follow it.
        """

    @abstractmethod
    def step(self, iteration: int, progress: int) -> bool:
        """Make one step of the training.

        Args:
            iteration: Calls of this method before, the same on every rank.
            progress: Those of them that made a step.

        Returns:
            False if a gradient was not finite: then nothing has changed.

        Raises:
            DisagreementError: if ranks are at other steps, train other parameters or have other
                hyper-parameters; on all ranks, in gossip on those that hear from the odd one.
        """

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].copy_(value)

    @property
    def _device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def _gradients(self) -> Mapping[str, Tensor]:
        """Return this rank's gradients, whole and checked; zeros for those not used."""
        return whole_gradients(self.where, gradients_of(self.parameters), self.parameters)

    def _clip_factor(self, gradients: Mapping[str, Tensor], bound: float | None) -> float | None:
        """Return the factor that clips a gradient to a norm; None if it is not finite."""
        try:
            return clip_factor(checked_norm(self.where, gradients), bound)
        except NonFiniteGradientError:
            return None

    @property
    def _local_bound(self) -> float | None:
        """Bound on one rank's own gradient, so that the mean of all has about `clip_norm`.

        Independent gradients add like random steps (Lin et al., ICLR 2018): a rank's part of the
        mean, its gradient / N, is clipped at clip_norm * N**-0.5.
        """
        num_workers = self.own.num_workers
        return None if self.clip_norm is None else self.clip_norm * num_workers**0.5


class _Message(NamedTuple):
    """Memory for the gradients, and its payload; both last as long as the same are trained."""

    buffer: FlatBuffer
    payload: DensePayload


class AverageRule(Rule):
    """The mean of all gradients, dense; then the optimizer's own step, as in plain data parallel.

    A parameter that no rank used keeps its gradient None.  Clipping is that of the mean.
    """

    name = "average"
    _message: _Message | None = None

    def train(self, groups: Sequence[Parameters]) -> None:
        """See `Rule.train`."""
        super().train(groups)
        flags = torch.empty(len(self.parameters), dtype=torch.float32, device=self._device)
        layout = FlatLayout.of(
            {**self.parameters, _USED: flags, _MARKS: flags.new_empty(NUM_MARKS)}
        )
        buffer = FlatBuffer(layout, self._device)
        payload = DensePayload(buffer.flat, self.config.wire_dtype, goals=SUM)
        self._next_message = _Message(buffer, payload)

    @torch.no_grad()
    def step(self, iteration: int, progress: int) -> bool:
        """See `Rule.step`.

        A rank that trains other parameters than before first says so in a buffer as before: one of
        another size would end the processes that expect the former.
        """
        marks = self.marks(iteration, progress)
        if self.own.num_workers < self.own.world_size:  # a server's marks are in no sum
            check_marks(self.where, self.own.counts(marks, self._device, iteration), marks)
        if self._message is not None and self._message is not self._next_message:
            self._message.buffer.flat.zero_()
            self._run(self._message, marks, iteration)
        self._message = self._next_message
        flat = self._fill()
        self._run(self._message, marks, iteration)
        means = flat[: len(flat) - len(self.parameters) - NUM_MARKS]
        norm = float(torch.linalg.vector_norm(means))
        if not norm < float("inf"):  # an infinity, or NaN, has reached every rank
            return False
        if self.clip_norm is not None and norm > self.clip_norm:
            means.mul_(self.clip_norm / norm)
        self._set_gradients()
        self.optimizer.step()
        return True

    def _run(self, message: _Message, marks: Sequence[bool], iteration: int) -> None:
        """Sum a buffer, after this rank's marks have been added, and compare them."""
        place = message.buffer.views[_MARKS]
        if self.own.contributes:
            place.copy_(torch.tensor(marks))
        self.own.run(message.payload, iteration)
        check_marks(self.where, place.tolist(), marks)

    def _fill(self) -> Tensor:
        """Return this rank's part of the means, and which of the parameters it used."""
        buffer = self._next_message.buffer
        if not self.own.contributes:
            return buffer.flat.zero_()
        used = [float(p.grad is not None) for p in self.parameters.values()]
        flags = torch.tensor(used, dtype=torch.float32, device=self._device)
        flat = buffer.fill({**self._gradients(), _USED: flags, _MARKS: flags.new_zeros(NUM_MARKS)})
        return flat if self.own.num_workers == 1 else flat.div_(self.own.num_workers)

    def _set_gradients(self) -> None:
        views = self._next_message.buffer.views
        used, targets, sources = views[_USED].tolist(), [], []
        for (name, parameter), share in zip(self.parameters.items(), used, strict=True):
            if not share:
                parameter.grad = None  # zeros on servers
            elif parameter.grad is None or parameter.grad.layout != torch.strided:
                parameter.grad = views[name].to(parameter.dtype, copy=True)
            else:
                targets.append(parameter.grad)
                sources.append(views[name])
        if targets:
            torch._foreach_copy_(targets, sources)


def scale_gradients(parameters: Parameters, factor: float) -> None:
    """Multiply the gradients that there are by *factor*, in place."""
    found = [p.grad for p in parameters.values() if p.grad is not None]
    if found and factor != 1:
        torch._foreach_mul_(found, factor)
