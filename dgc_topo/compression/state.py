"""Snapshots of compressor state: taken as copies, checked as a whole before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dgc_topo.compression.values import check_epoch, plain_int

Sections = Mapping[str, Mapping[str, Tensor]]  #: section name to parameter name to live tensor


def snapshot(sections: Sections) -> dict[str, object]:
    """Return copies of the tensors, so that later steps leave the snapshot alone."""
    return {
        section: {name: tensor.clone() for name, tensor in tensors.items()}
        for section, tensors in sections.items()
    }


@torch.no_grad()
def restore(where: str, state: Mapping[str, object], sections: Sections) -> None:
    """Copy a snapshot into the live tensors, all or nothing.

    Args:
        where: What to call the compressor in an error.
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
    """Return the step of a snapshot, and the epochs done if any were told.

    Raises:
        ValueError: if they are no numbers, or below 0.
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
    """Return whether copying a saved tensor into the live one loses no more than precision."""
    if value.is_meta or value.layout != torch.strided or value.is_complex():
        return False
    if value.is_floating_point() != live.is_floating_point():
        return False
    wide = value.dtype == torch.float64
    return not (wide and bool((value.isfinite() & value.to(live.dtype).isinf()).any()))
