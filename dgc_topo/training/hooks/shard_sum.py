"""One part's gradient: its compressor, what it has sent in this step, and the sum."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.gradients import NonFiniteGradientError
from dgc_topo.payload import SUM, BundlePayload, DensePayload, Payload, SparsePayload
from dgc_topo.training.hooks.shards import ShardedPart

#: By parameter name: velocity, residual and momentum, as far as there are such.
Parameters = dict[str, dict[str, Tensor]]


class _Sent(NamedTuple):
    indices: Tensor
    values: Tensor


class ShardSum:
    """Compression of one part's shard, and its average over the replicas.

    The compressor is made anew when other parameters become trainable; state is kept by name.

    Args:
        part: Parameters of one FSDP module.
        config: Settings of DGC; epochs are steps.
        num_replicas: Number of ranks over which shards are averaged.

    Attributes:
        part: The same.
        is_finite: False if a gradient of this step is not finite on some replica.
    """

    def __init__(self, part: ShardedPart, config: DGCConfig, num_replicas: int) -> None:
        self.part = part
        self.is_finite = True
        self._config, self._num_replicas = config, num_replicas
        self._dgc: DGC | None = None
        self._shapes: dict[str, torch.Size] = {}
        self._kept: Parameters = {}
        self._pending: Tensor | None = None
        self._sent: _Sent | None = None
        small = DGC({"x": torch.zeros(1, 1), "y": torch.zeros(1)}, num_workers=1, config=config)
        self._known = tuple(section for section, found in _sections(small).items() if found)

    @property
    def has_pending(self) -> bool:
        """True if gradients are held for a later pass of the step."""
        return self._pending is not None

    @property
    def compresses(self) -> bool:
        """True if some tensor is compressed."""
        return self._dgc is not None and bool(self._dgc.residuals())

    def describe(self) -> str:
        """Return a table of the tensors that are compressed, and of those that are not."""
        head = f"part {self.part.name or 'of the model itself'}"
        return (
            f"{head}: no gradient yet" if self._dgc is None else f"{head}: {self._dgc.describe()}"
        )

    def add(self, shard: Tensor, scale: float) -> None:
        """Add a pass's gradient to those that are held.

        Args:
            shard: This rank's part of the gradient, 1-D; not modified.
            scale: Factor on the loss.
        """
        divisor = scale * (self._num_replicas if self.part.divides else 1)
        flat = shard.to(torch.float32, copy=True).div_(divisor)
        self._pending = flat if self._pending is None else self._pending.add_(flat)

    def sum_into(
        self, shard: Tensor, step: int, scale: float, exchange: Callable[[Payload], None]
    ) -> None:
        """Compress what is held, sum it over the replicas, and write the average.

        A rank whose gradient is not finite sends nothing but that fact, so that nobody waits.

        Args:
            shard: Written to; zeros if a replica's gradient is not finite.
            step: Number of the step.
            scale: Factor on the loss, which the average is given again.
            exchange: Sums a payload over the replicas in place.
        """
        flat, self._pending = self._pending, None
        assert flat is not None
        dgc = self._compressor(flat)
        dgc.set_progress(step)
        try:
            payload, is_finite = dgc.compress(self._views(flat)), True
        except NonFiniteGradientError:
            payload, is_finite = dgc.neutral(), False
        self._sent = _sent(payload) if is_finite else None
        flag = DensePayload(flat.new_full((1,), float(not is_finite)), goals=SUM)
        whole = BundlePayload([payload, flag])
        whole.made_with = payload.made_with
        exchange(whole)
        self.is_finite = not bool(flag.buffer.any())
        shard.zero_()
        if self.is_finite:
            updates = dgc.finish(payload)
            self._note_rejected(updates)
            torch.cat([update.reshape(-1) for update in updates.values()], out=flat)
            shard.copy_(flat.mul_(scale))
            if shard.dtype == torch.float16:  # the scale may have been too much for it
                self.is_finite = bool(shard.isfinite().all())

    def take_back(self) -> None:
        """Return to the residual what this step has sent."""
        if self._sent is not None and self._dgc is not None:
            self._dgc.give_back(*self._sent)
            self._sent = None

    def forget(self) -> None:
        """Forget the step."""
        self._sent, self.is_finite = None, True

    def saved(self) -> Parameters:
        """Return copies of the state, by parameter name."""
        kept = {name: dict(tensors) for name, tensors in self._kept.items()}
        for section, tensors in _sections(self._dgc).items():
            for name, tensor in tensors.items():
                kept.setdefault(name, {})[section] = tensor
        return kept

    def check(self, parameters: Mapping[str, Mapping[str, object]]) -> None:
        """Refuse state that does not fit this part.

        Raises:
            ValueError: naming the parameter.
        """
        for name, shape in self.part.shapes(only_trainable=False).items():
            for section, found in parameters.get(name, {}).items():
                what = f"compress_fsdp state: {section} of {name!r}"
                if section not in self._known:
                    raise ValueError(
                        f"{what}, expected only {', '.join(self._known)} with these settings"
                    )
                if not isinstance(found, Tensor) or found.shape != shape:
                    size = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                    raise ValueError(
                        f"{what} is {size}, expected shape {tuple(shape)}: the model sharded as "
                        "when it was saved"
                    )

    def load(self, parameters: Parameters) -> None:
        """Continue from such a state, from the next step on."""
        self._kept = {
            name: {section: tensor.clone() for section, tensor in parameters[name].items()}
            for name in self.part.names
            if name in parameters
        }
        self._dgc, self._pending = None, None

    def _compressor(self, flat: Tensor) -> DGC:
        """Return the compressor of the parameters that have gradients now."""
        shapes = self.part.shapes()
        expected = sum(map(prod, shapes.values()))
        if expected != len(flat):
            raise RuntimeError(
                f"compress_fsdp: {len(flat)} elements of gradients in {self.part.name!r}, "
                f"expected {expected}: every trainable parameter has to take part in the loss, or "
                "has to be frozen (torch before 2.13 leaves out those that do not)"
            )
        if self._dgc is None or shapes != self._shapes:
            self._kept = self.saved()
            self._dgc, self._shapes = self._new_compressor(shapes, flat.device), shapes
        return self._dgc

    def _new_compressor(self, shapes: Mapping[str, torch.Size], device: torch.device) -> DGC:
        with (
            warnings.catch_warnings()
        ):  # norms alone are no fault; the state warns of a whole model
            warnings.filterwarnings("ignore", message="dgc compresses nothing")
            memory = self.part.memory(shapes, device)
            dgc = DGC(memory, num_workers=self._num_replicas, config=self._config)
        state = dgc.state_dict()
        for section, tensors in _sections(dgc).items():
            state[section] = {
                name: self._kept.get(name, {}).pop(section, tensor)
                for name, tensor in tensors.items()
            }
        dgc.load_state_dict(state)
        return dgc

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        parts = torch.split(flat, [prod(shape) for shape in self._shapes.values()])
        pairs = zip(self._shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in pairs}

    def _note_rejected(self, updates: Mapping[str, Tensor]) -> None:
        """Leave out, of what is to be given back, what `Reselection` has given back already."""
        if self._config.merge != "reselect" or not self.compresses or self._sent is None:
            return
        assert self._dgc is not None
        total = torch.cat([updates[name].reshape(-1) for name in self._dgc.residuals()])
        kept = total[self._sent.indices] != 0
        self._sent = _Sent(self._sent.indices[kept], self._sent.values[kept])


def _sent(payload: Payload) -> _Sent | None:
    """Return the entries of a payload that is not summed yet; None if all of it is dense."""
    match payload:
        case BundlePayload(parts=[SparsePayload() as sparse, _]):
            return _Sent(sparse.indices, sparse.values)
    return None


def _sections(dgc: DGC | None) -> dict[str, dict[str, Tensor]]:
    """Return copies of a compressor's tensors, by section and parameter."""
    state = {} if dgc is None else dgc.state_dict()
    return {key: dict(value) for key, value in state.items() if isinstance(value, Mapping)}
