"""Compressors of buckets: one each, with state that belongs to the parameters.

DDP makes new buckets after its first step, and a user may wrap a model again, for example when more
layers are to be trained; a part of an FSDP2 model changes when layers are frozen.  A bucket that
was not there before gets a compressor, and takes over the state of its parameters from the former
buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dgc_topo.compression.accumulation import Staleness
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.pool import constant
from dgc_topo.payload import BundlePayload, DensePayload, Payload, SparsePayload
from dgc_topo.training.buckets import add_up
from dgc_topo.training.carrying import ParameterState, Parked, by_parameter, by_section


class BucketDGC(DGC):
    """DGC of a part of a model, which may have nothing to compress."""

    is_part = True

    @torch.no_grad()
    def finish_into(self, payload: Payload, views: Mapping[str, Tensor]) -> None:
        """Write the updates into tensors shaped like the parameters, contiguous float32.

        Where the update is the sum itself, its entries go right to their places: a dense copy in
        between would cost more than all else that follows the sum.
        """
        match payload:
            case BundlePayload(parts=[SparsePayload() as sparse, DensePayload() as rest]):
                if self._applies_the_sum:
                    self._learn_from(payload)
                    self._scatter(sparse, views)
                    for name, update in self._dense.layout.views(
                        self._dense.update(rest.buffer.clone())
                    ).items():
                        views[name].copy_(update)
                    return
        for name, update in self.finish(payload).items():
            views[name].copy_(update)

    @property
    def _applies_the_sum(self) -> bool:
        """True if nothing is done to the sum of compressed tensors."""
        config = self._config
        momentum_is_done = config.corrects_momentum or not config.momentum
        return momentum_is_done and not config.weight_decay

    def _scatter(self, summed: SparsePayload, views: Mapping[str, Tensor]) -> None:
        layout = self._accumulation.layout
        indices, values = summed.indices, summed.values
        ends = constant(layout.offsets, indices.device)
        places: list[int] = torch.searchsorted(indices, ends).tolist()
        for (name, elements), begin, end in zip(layout.slices(), places, places[1:], strict=False):
            flat = views[name].view(-1).zero_()
            flat[indices[begin:end] - elements.start] = values[begin:end]

    def momenta(self) -> list[Tensor]:
        """Return the live momenta that `finish` advances."""
        sections = self.sections()
        return [*sections["momentum"].values(), *sections["momentum_after_sum"].values()]


class Compressors:
    """The compressors of all buckets.

    Args:
        memory: Function that returns tensors by their names, as they lie in memory.
        config: Settings of all.
        num_workers: Number of ranks whose gradients are summed.
    """

    def __init__(
        self,
        memory: Callable[[Sequence[str]], Mapping[str, Tensor]],
        config: DGCConfig,
        num_workers: int,
    ) -> None:
        self._memory, self._config, self._num_workers = memory, config, num_workers
        self._live: dict[tuple[str, ...], BucketDGC] = {}
        self._parked = Parked()  # state of parameters that are in no bucket now

    def of(self, names: tuple[str, ...], step: int) -> BucketDGC:
        """Return the compressor of a bucket, with its density for a step.

        Args:
            names: The bucket's parameters, in order.
            step: Steps done before.
        """
        found = self._live.get(names)
        if found is None:
            found = self._live[names] = self._made(names, step)
        found.set_progress(step)
        found.step = step
        return found

    def state(self) -> dict[str, ParameterState]:
        """Return copies of the state of all parameters that have some."""
        found = by_parameter(self._parked.sections)
        for names, compressor in self._live.items():
            found |= by_parameter(compressor.sections(), names)
        return {name: copies_of(each) for name, each in found.items()}

    def load(self, state: Mapping[str, ParameterState]) -> None:
        """Replace all state; it has been checked."""
        self._live, self._parked = {}, Parked(by_section(state))

    def park(self, name: str, state: ParameterState) -> None:
        """Add to the state that the next bucket with this parameter begins with."""
        self._parked.add(by_section({name: state}))

    def sections(self) -> set[str]:
        """Return the sections that state of parameters may have with these settings."""
        like = {"matrix": torch.zeros(1, 1), "vector": torch.zeros(1)}
        small = BucketDGC(like, num_workers=1, config=self._config)
        return {section for section, tensors in small.sections().items() if tensors}

    def staleness(self) -> Staleness:
        """Return how long elements waited (see `DGC.staleness`), over all buckets.

        Raises:
            RuntimeError: if ages are not tracked, or no step has been done.
        """
        if not self._live:
            raise RuntimeError("hook: no step so far, expected one before staleness is asked for")
        return add_up([compressor.staleness() for compressor in self._live.values()])

    def _made(self, names: tuple[str, ...], step: int) -> BucketDGC:
        """Return a new compressor, with the state of former buckets that held some of *names*."""
        for former in [each for each in self._live if not {*names}.isdisjoint(each)]:
            self._parked.add(self._live.pop(former).sections())
        made = BucketDGC(self._memory(names), num_workers=self._num_workers, config=self._config)
        state = self._parked.take(made.sections())
        made.load_state_dict({"compressor": made.name, "step": step, "epoch": step, **state})
        return made


def copies_of(state: ParameterState) -> ParameterState:
    """Return copies of a parameter's state."""
    return {section: tensor.clone() for section, tensor in state.items()}
