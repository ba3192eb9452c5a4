"""State of the hook for FSDP2: what each part sends in a step, and whether the step counts."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Variable

from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.parameters import describe_dgc
from dgc_topo.compression.resharding import state_for
from dgc_topo.payload import Payload
from dgc_topo.sizes import is_sparse
from dgc_topo.training.hooks.compressors import Compressors
from dgc_topo.training.hooks.fsdp.shard_sum import ShardSum
from dgc_topo.training.hooks.fsdp.shards import ShardedPart
from dgc_topo.training.hooks.log import LOG, tell_compression
from dgc_topo.training.hooks.saved import Saved, check_settings, checked_state
from dgc_topo.training.hooks.scaling import Scaler, scale_of, scales
from dgc_topo.training.marks import DisagreementError, check_marks, marks_of, number_of
from dgc_topo.training.optimizer.checks import Hint, watch_optimizers
from dgc_topo.training.own_group import OwnGroup
from dgc_topo.training.ownership import check_place

_KIND = "dgc-topo FSDP hook"
_WHERE = "compress_fsdp"
_HINT = Hint(
    "dt.compress_fsdp",
    home="dt.compress_fsdp(..., momentum=0.9)",
    instead="a higher density (1 sends all), and a look at the loss",
)


class FSDPHookState:
    """Compression of an FSDP2 model's gradients between replicas; `compress_fsdp` makes it.

    Args:
        model: The model.
        parts: Its parts.
        replicas: The ranks that hold the same shards.
        config: Settings of DGC; epochs are steps.
        scaler: Scaler of the loss, or None.

    Attributes:
        step: Steps that were summed and not skipped.
        skipped: Steps that were skipped, because a gradient was not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: list[ShardedPart],
        replicas: OwnGroup,
        config: DGCConfig,
        scaler: Scaler | None,
    ) -> None:
        self.step, self.skipped = 0, 0
        self._model = model
        self._replicas, self._config, self._scaler = replicas, config, scaler
        self._num_replicas = replicas.world_size
        self._shard_group = parts[0].shard_group
        self._homes = {name: part for part in parts for name in part.names}
        self._compressors = Compressors(self._memory, config, self._num_replicas)
        self._sums = [ShardSum(part, self._compressors, self._num_replicas) for part in parts]
        self._summed: list[ShardSum] = []  # in the step that is under way
        self._pass_end: Callable[[], object | None] = lambda: None  #: what ends that step
        self._goes_on = False  # another pass of a step whose gradients are there already
        self._device = torch.device("cpu")

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "FSDPHookState: has connections, which can be neither copied nor pickled; use "
            "state_dict()"
        )

    def __repr__(self) -> str:
        count = sum(len(each.part.names) for each in self._sums)
        return (
            f"FSDPHookState({_plural(len(self._sums), 'part')}, {_plural(count, 'parameter')}, "
            f"{_plural(self._num_replicas, 'replica')}, {self._replicas.topology.label}, "
            f"density={self._config.density:g})"
        )

    def register(self) -> None:
        """Set the hook of each FSDP module, and watch for an optimizer that does not fit."""
        watch_optimizers(
            self,
            dict(self._model.named_parameters()),
            momentum=self._config.momentum,
            is_sparse=is_sparse(self._config.density),
            scaler=self._scaler,
            hint=_HINT,
        )
        for each in self._sums:

            def hook(shard: Tensor, each: ShardSum = each) -> None:
                self._run(each, shard)

            each.part.module.set_all_reduce_hook(hook)
        if dist.get_rank() == 0:
            replicas = _plural(self._num_replicas, "replica")
            title = f"compress_fsdp over {self._replicas.topology.label}, {replicas}"
            tell_compression(title, self._trained, self._config)

    def describe(self) -> str:
        """Return a table of the shards that are compressed after the warm-up, and of others."""
        return describe_dgc(self._trained, self._config.density, self._config.coding)

    def state_dict(self) -> dict[str, object]:
        """Return copies of this rank's residuals and velocities by parameter name, and the step.

        Every rank has its own.

        Raises:
            RuntimeError: in the middle of a step, or of an accumulation over several passes.
        """
        if self._summed or any(each.has_pending for each in self._sums):
            raise RuntimeError(
                "compress_fsdp: state_dict in the middle of a step, expected a call after the "
                "step's last backward pass"
            )
        saved = Saved(_KIND, self.step, self._compressors.state())
        return {**saved.as_dict(), "settings": self._settings, "place": self._place}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from this rank's snapshot, bit for bit.

        Raises:
            ValueError: if it is another rank's or of another momentum, or names or shapes are not
                those of this model sharded this way; nothing is loaded then.
        """
        shapes: dict[str, torch.Size] = {}
        for each in self._sums:
            shapes |= each.part.shapes(only_trainable=False)
        sections = self._compressors.sections()
        saved = checked_state(_WHERE, state, _KIND, shapes, sections)
        advice = "call compress_fsdp with the same momentum"
        check_settings(_WHERE, state.get("settings"), self._settings, advice)
        check_place(_WHERE, state.get("place"), self._place)
        self._compressors.load(saved.parameters)
        for each in self._sums:
            each.drop()
        self.step = saved.step

    def state_for(
        self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int
    ) -> dict[str, Any]:
        """Return this rank's snapshot, made of those of all ranks of another number of replicas.

        What has not been sent is shared out anew among the ranks of a shard, and its sum stays.

        Args:
            states: What `state_dict` returned on each former rank, in any order.
            rank: This rank.
            world_size: Number of ranks.

        Raises:
            ValueError: if the model was cut into other shards.
        """
        del rank, world_size  # known
        here = self._place
        for state in states:
            if state["place"]["num_shards"] != here["num_shards"]:
                raise ValueError(
                    f"{_WHERE} state: of {state['place']['num_shards']} shards, expected "
                    f"{here['num_shards']} as here: only the number of replicas may change"
                )
        former = [each for each in states if each["place"]["shard"] == here["shard"]]
        former.sort(key=lambda each: int(each["place"]["rank"]))
        found: dict[str, Any] = state_for(former, here["rank"], here["world_size"])
        return {**found, "place": here}

    @property
    def _settings(self) -> dict[str, object]:
        return {"momentum": self._config.momentum, "nesterov": self._config.nesterov}

    @property
    def _place(self) -> dict[str, int]:
        """Replica, and shard, of this rank's state."""
        group = self._shard_group
        shard = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        return {**self._replicas.place, "shard": shard[0], "num_shards": shard[1]}

    @torch.no_grad()
    def _run(self, each: ShardSum, shard: Tensor) -> None:
        """Replace a part's shard of the gradient by its average over the replicas."""
        self._replicas.refuse_after_error()
        try:
            scale = scale_of(self._scaler)
            self._device = shard.device
            each.add(shard, scale)
            if each.part.is_held:
                shard.zero_()
                return
            if self._summed and (each in self._summed or self._pass_end() is None):
                self._forget_interrupted()
            if not self._summed:
                self._begin()
            self._summed.append(each)
            each.sum_into(shard, self.step, scale, self._exchange)
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """Refuse all further steps; FSDP would go on without gradients after an error."""
        self._replicas.fail(error)
        self._model.register_forward_pre_hook(lambda *_: self._replicas.refuse_after_error())

    def _exchange(self, payload: Payload) -> None:
        self._replicas.run(payload, self.step)

    def _begin(self) -> None:
        self._compare()
        self._goes_on = any(
            bool(gradient.any()) for each in self._sums for gradient in each.part.local_gradients()
        )
        if self._goes_on and self._config.momentum:
            raise RuntimeError(
                "compress_fsdp: gradients of an earlier pass are there, and momentum would count "
                "them twice; expected optimizer.zero_grad() before the pass, or, to accumulate, "
                "model.set_requires_gradient_sync(False) in all passes but the last"
            )
        # Behind FSDP's own callback, which may still reduce the gradients of the first layers.
        end = partial(self._end)
        self._pass_end = weakref.ref(end)  # autograd drops it if the pass ends in an error
        Variable._execution_engine.queue_callback(end)  # noqa: SLF001  # as FSDP does

    def _compare(self) -> None:
        """Compare with the other replicas what is sent in a step, before anything is.

        Raises:
            RanksDifferError: on every replica, naming ranks and what differs.
        """
        shapes: dict[str, torch.Size] = {}
        for each in self._sums:
            shapes |= each.part.shapes()
        marks = marks_of(self.step, number_of(shapes))
        try:
            check_marks(_WHERE, self._replicas.counts(marks, self._device, self.step), marks)
        except DisagreementError:
            trained = {name: name in shapes for name in self._homes}
            texts = {name: "trained" if yes else "frozen" for name, yes in trained.items()}
            self._replicas.name_difference({"step": self.step, **texts})

    def _end(self) -> None:
        """End the step: all ranks keep it, or all skip it."""
        try:
            is_finite = self._agree(all(each.is_finite for each in self._summed))
            if is_finite:
                self.step += not self._goes_on
            else:
                self._skip()
        except BaseException as error:
            self._fail(error)
            raise
        for each in self._summed:
            each.forget()
        self._summed = []

    def _agree(self, is_finite: bool) -> bool:
        """Return True if all ranks of the machine found finite numbers.

        The ranks that hold the same shard know it of each other already.
        """
        if self._shard_group is None or dist.get_world_size(self._shard_group) == 1:
            return is_finite
        found = torch.tensor(float(not is_finite), device=self._device)
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self._shard_group)
        return not bool(found)

    def _skip(self) -> None:
        self.skipped += 1
        LOG.warning(
            "compress_fsdp: a gradient is not finite, all ranks skip the step after step %d; what "
            "was sent is kept for later steps",
            self.step,
        )
        for each in self._summed:
            each.give_up()
        for each in self._sums:
            if not scales(self._scaler):
                for parameter in each.part.parameters():
                    parameter.grad = None
            else:
                for gradient in each.part.local_gradients():
                    gradient.fill_(torch.nan)

    def _forget_interrupted(self) -> None:
        """Take back what a pass sent that an error of the script's interrupted."""
        for each in self._summed:
            each.give_up()
        self._summed = []

    def _memory(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the shards of parameters of one part, as the compressor needs them."""
        return self._homes[names[0]].memory(names, self._device)

    @property
    def _trained(self) -> dict[str, Tensor]:
        """Tensors without memory, shaped like the shards that get gradients."""
        return {
            name: torch.empty(shape, device="meta")
            for each in self._sums
            for name, shape in each.part.shapes().items()
        }


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
