"""The `Compressor` protocol: gradients to a payload, and the summed payload to an update.

One training step, on every rank that trains::

    compressor.set_progress(step / steps_per_epoch)
    payload = compressor.compress(gradients)     # gradients / (num_workers * batch)
    ...                                          # the schedule sums the payloads of all ranks
    for name, update in compressor.finish(payload).items():
        parameters[name] -= lr * update

The last line is the same for every compressor.  Momentum and weight decay therefore belong to the
compressor: it decides whether they act before the selection or after the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from dgc_topo.compression.gradients import Gradients
from dgc_topo.compression.values import check_epoch
from dgc_topo.payload import DensePayload, Payload
from dgc_topo.scalars import plain_int


class Compressor(Protocol):
    """One rank's side of gradient compression; state is keyed by parameter name.

    Every rank constructs it with the same parameters in the same order and the same settings, and
    calls `set_progress` with the same values: ranks never exchange settings.
    """

    @property
    def name(self) -> str:
        """Name in tables and records."""

    @property
    def owns_momentum(self) -> bool:
        """True if momentum on top of the update would be applied twice."""

    @property
    def density(self) -> float:
        """Fraction of the compressed tensors' elements that is sent at the current progress."""

    def set_progress(self, epoch: float) -> None:
        """Set the training's progress, before the step's `compress`.

        Args:
            epoch: Epochs done, fractions included: ``step / steps_per_epoch``; a Python or NumPy
                number, or a tensor of shape ().

        Raises:
            ValueError: if *epoch* is negative, not finite or no number.
        """

    def compress(self, gradients: Gradients) -> Payload:
        """Return this rank's contribution to the sum; call it once per step.

        Args:
            gradients: One per parameter, shaped like it, already divided by ``num_workers *
                batch``, so that their sum over the ranks is the mean gradient.  None counts as
                zeros (a frozen layer, or one that took no part in the loss), and a sparse layout
                as the dense tensor.  Not modified.

        Returns:
            Valid until the next call.

        Raises:
            ValueError: if names, shapes or devices are not the parameters', or a gradient is no
                tensor of floating-point numbers.
        """

    def neutral(self) -> Payload:
        """Return a payload that adds nothing, for a rank that serves without training."""

    def finish(self, payload: Payload) -> dict[str, Tensor]:
        """Return the update of every parameter from the payload summed over the ranks.

        All ranks hold the same sum, so this method's state is the same on all of them, and
        `compress` does not depend on it.  (Virtual workers therefore call it once for all.)

        Args:
            payload: Sum of all ranks' payloads, as the schedule returned it.  Not modified.

        Returns:
            float32 tensors shaped like the parameters, in their order, to be applied as
            ``parameter -= lr * update``; valid until the next call.

        Raises:
            ValueError: if *payload* is not a sum of what `compress` returns.
        """

    def describe(self) -> str:
        """Describe the parameters that are compressed and those that are not, with their bytes."""

    def state_dict(self) -> dict[str, object]:
        """Return a snapshot of all state that the next step depends on, except the parameters."""

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a snapshot, bit for bit.

        Raises:
            ValueError: if it was taken by another compressor, or names or shapes differ; nothing
                is loaded then.
        """


def dense_part(where: str, payload: Payload, length: int) -> Tensor:
    """Return the buffer of a dense payload, shape (length,), sharing its memory.

    Raises:
        ValueError: if it is another kind of payload, or of another length.
    """
    if not isinstance(payload, DensePayload) or payload.buffer.numel() != length:
        found = type(payload).__name__
        if isinstance(payload, DensePayload):
            found = f"{payload.buffer.numel()} elements"
        raise ValueError(
            f"{where}: summed payload is {found}, expected a sum of what compress returned "
            f"(here: {length} dense elements)"
        )
    return payload.buffer


def check_optimizer(optimizer: Optimizer, compressor: Compressor) -> None:
    """Refuse an optimizer that would apply momentum a second time.

    Args:
        optimizer: Optimizer that receives the compressor's updates as gradients and applies them.
        compressor: Compressor that makes the updates.

    Raises:
        ValueError: if the compressor owns the momentum and a parameter group has momentum of its
            own: ``momentum`` other than 0 (SGD, RMSprop), or a first ``betas`` other than 0 (Adam).
    """
    if not compressor.owns_momentum:
        return
    for index, group in enumerate(optimizer.param_groups):
        momentum = group.get("momentum", 0) or group.get("betas", (0,))[0]
        if momentum:
            raise ValueError(
                f"optimizer: {type(optimizer).__name__} has momentum {momentum} in parameter group "
                f"{index}, expected 0: {compressor.name} applies momentum itself and it would "
                "count twice; use torch.optim.SGD(parameters, lr) and set the compressor's momentum"
            )


Sections = Mapping[str, Mapping[str, Tensor]]  #: section name to parameter name to live tensor


def snapshot(sections: Sections) -> dict[str, object]:
    """Return copies of the tensors, which later steps leave unchanged."""
    return {
        section: {name: tensor.clone() for name, tensor in tensors.items()}
        for section, tensors in sections.items()
    }


@torch.no_grad()
def restore(where: str, state: Mapping[str, object], sections: Sections) -> None:
    """Copy a snapshot into the live tensors, all or nothing.

    Args:
        where: Name of the compressor in errors.
        state: What `snapshot` returned, possibly with further keys.
        sections: The live tensors.

    Raises:
        ValueError: if a section is missing, or its names or shapes are not the live ones.
    """
    checked = {
        section: _checked(f"{where} state {section!r}", state.get(section), live)
        for section, live in sections.items()
    }
    for section, live in sections.items():
        for name, tensor in live.items():
            tensor.copy_(checked[section][name])


def check_owner(where: str, state: Mapping[str, object]) -> None:
    """Refuse the snapshot of another kind of compressor.

    Raises:
        ValueError: if the snapshot was not taken by *where*.
    """
    if not isinstance(state, Mapping):
        raise ValueError(  # noqa: TRY004  a bad file is a bad value
            f"{where} state: {type(state).__name__}, expected what state_dict() returned"
        )
    owner = state.get("compressor")
    if owner != where:
        raise ValueError(f"{where} state: taken by {owner!r}, expected {where!r}")


def position_of(where: str, state: Mapping[str, object]) -> tuple[int, float | None]:
    """Return the step of a snapshot, and the epochs done if the snapshot holds them.

    Raises:
        ValueError: if they are not numbers, or below 0.
    """
    step, epoch = state.get("step"), state.get("epoch")
    try:
        steps = plain_int("step", step)
        epochs = None if epoch is None else check_epoch(where, epoch)
    except ValueError:
        steps, epochs = -1, None
    if steps < 0:
        raise ValueError(f"{where} state: step {step!r} and epoch {epoch!r}, expected numbers >= 0")
    return steps, epochs


def _checked(where: str, saved: object, live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(saved, Mapping):
        raise ValueError(  # noqa: TRY004  a bad file is a bad value
            f"{where}: {type(saved).__name__}, expected tensors by parameter name"
        )
    missing = [name for name in live if name not in saved]
    unknown = [name for name in saved if name not in live]
    if missing or unknown:
        raise ValueError(
            f"{where}: missing {missing} and unknown {unknown}, expected exactly the parameters "
            "of this model"
        )
    for name, tensor in live.items():
        value = saved[name]
        if not isinstance(value, Tensor) or value.shape != tensor.shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{where}: {name!r} is {found}, expected shape {tuple(tensor.shape)}")
        if not _can_be_copied(value, tensor):
            raise ValueError(
                f"{where}: {name!r} is {value.dtype}, {value.layout} on {value.device}, expected "
                f"numbers that {tensor.dtype} can hold, dense and in memory"
            )
    return dict(saved)


def _can_be_copied(value: Tensor, live: Tensor) -> bool:
    """Return True if copying a saved tensor into the live one can lose only precision."""
    if value.is_meta or value.layout != torch.strided or value.is_complex():
        return False
    if value.is_floating_point() != live.is_floating_point():
        return False
    wide = value.dtype == torch.float64
    return not (wide and bool((value.isfinite() & value.to(live.dtype).isinf()).any()))
