"""`HookState`: all that DDP's communication hook needs, and what it keeps between steps."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, MutableMapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from dgc_topo.compression.accumulation import Staleness
from dgc_topo.compression.parameters import check_parameters, describe_dgc
from dgc_topo.sizes import is_sparse
from dgc_topo.topology import Topology
from dgc_topo.training.hooks.compressors import Compressors
from dgc_topo.training.hooks.ddp.leftovers import Leftovers
from dgc_topo.training.hooks.ddp.moves import Moves
from dgc_topo.training.hooks.ddp.passes import BackwardPass
from dgc_topo.training.hooks.ddp.plan import plan_of, settings_text, shared_settings
from dgc_topo.training.hooks.ddp.reduction import Compressing, DenseMean, Reduction
from dgc_topo.training.hooks.ddp.running import PassRunner
from dgc_topo.training.hooks.ddp.takeover import Takeover, tell_takeover
from dgc_topo.training.hooks.layout import BucketLayout, in_memory_order, refuse_sparse_gradients
from dgc_topo.training.hooks.log import LOG, tell_compression
from dgc_topo.training.hooks.saved import Saved, check_settings, checked_state
from dgc_topo.training.hooks.scaling import Scaler, check_scaler, scale_of, scales
from dgc_topo.training.optimizer.checks import watch_optimizers
from dgc_topo.training.optimizer.momentum import place_of_momentum
from dgc_topo.training.own_group import DEFAULT_TIMEOUT, OwnGroup
from dgc_topo.training.ownership import check_place

_KIND = "dgc-topo hook"
_AS_AT_FIRST = (
    "make the optimizer with the momentum and weight decay that it had at first, then HookState "
    "with optimizer=, and only then load both"
)


class HookState:
    """State of `dgc_topo.hook`, which sums DDP's gradients over a topology, compressed by DGC.

    Every rank of the model's process group makes one, after the model and with the same arguments,
    and registers it: ``model.register_comm_hook(state, dt.hook)``.  Docs: ``docs/hook.md``.
    Gradients travel as float32, or as ``wire_dtype`` says, and wait as float32, of whatever type
    the parameters are.

    Args:
        model: The DistributedDataParallel model, or the module that will be in one.
        topology: An all-reduce in which every rank trains: a topology, its text form such as
            ``"butterfly"``, or the path of its file.
        density: Fraction of each compressed tensor that is sent, such as 0.001 or ``"0.1%"``.
            Tensors of one dimension travel dense; at density 1 everything does.
        optimizer: The optimizer of the model.  Below density 1 an SGD's momentum and weight decay
            move into the hook, where DGC corrects them for delayed gradients.
        warm_up_steps: Optimizer steps in which density falls to *density*; 0 for none.
        group: Process group; by default that of the DDP model, or the default one.
        seed: For topologies that draw at random; the same on every rank.
        scaler: The `torch.amp.GradScaler` that scales the loss, if one does.
        timeout: Longest time that one step of the topology may take.
        settings: Others of `DGCConfig`, by name, such as ``momentum=0.9`` (0 by default) where the
            optimizer is not given and has none.

    Attributes:
        step: Steps so far: backward passes that sent gradients.
        config: DGC's settings.

    Raises:
        TopologyError: if there is no such topology, or it cannot run with this world size.
        ValueError: if a setting cannot be honoured, before anything is changed.
        RanksDifferError: on every rank, if ranks differ in settings, or in the optimizer's
            hyper-parameters where it is given; likewise.

    Example:
        >>> import torch, torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(100, 10))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> state = dt.HookState(model, "butterfly", density=0.01, optimizer=optimizer)
        >>> model.register_comm_hook(state, dt.hook)
        >>> model(torch.ones(2, 100)).sum().backward()
        >>> state
        HookState(butterfly, 1 rank, density 0.01, momentum 0.9 in DGC, step 1)
        >>> del model
        >>> dist.destroy_process_group()
    """

    def __init__(  # noqa: PLR0913  # keywords, of which a user needs one or two
        self,
        model: nn.Module,
        topology: Topology | str | Path = "ring",
        density: float | str = 0.001,
        *,
        optimizer: Optimizer | None = None,
        warm_up_steps: int = 0,
        group: dist.ProcessGroup | None = None,
        seed: int = 0,
        scaler: Scaler | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        **settings: Any,
    ) -> None:
        ddp = model if isinstance(model, DistributedDataParallel) else None
        self._ddp = None if ddp is None else weakref.ref(ddp)
        inner: nn.Module = model if ddp is None else ddp.module
        self._parameters = dict(inner.named_parameters())
        self._names: dict[int, str] = {id(each): name for name, each in self._parameters.items()}
        check_parameters("hook", self._parameters)
        refuse_sparse_gradients("hook", inner)
        check_scaler("hook", scaler)
        if ddp is not None and group is None:
            group = ddp.process_group
        plan = plan_of(
            "hook",
            self._parameters,
            optimizer,
            density,
            {"warm_up_steps": warm_up_steps, **settings},
        )
        self.config, self.step = plan.config, 0
        self._group = OwnGroup("hook", topology, group, seed=seed, timeout=timeout, sums_all=True)
        self._group.compare(shared_settings(self._parameters, plan, optimizer))
        self._scaler, self._num_workers = scaler, self._group.num_workers
        self._compressors = Compressors(
            partial(_in_memory, self._parameters), self.config, self._num_workers
        )
        self._runner = PassRunner(self._reduction_with(plan.decays))
        self._settings = {
            "momentum": self.config.momentum,
            "nesterov": self.config.nesterov,
            "weight_decays": plan.decays,
        }
        # DDP uses its buckets again in every step, until it makes others.
        self._layouts: MutableMapping[Tensor, BucketLayout] = WeakTensorKeyDictionary()
        self._moves = Moves()
        self._is_spoilt = False  # True if a gradient that is not finite may still be there
        self._leftovers = Leftovers(self._parameters) if self.config.momentum else None
        if optimizer is not None:
            self._park(plan.moved.take(optimizer, self._parameters))
        watch_optimizers(
            self,
            self._parameters,
            momentum=self.config.momentum,
            is_sparse=is_sparse(self.config.density),
            scaler=scaler,
            skips=partial(_skips, weakref.ref(self)),
        )
        if self._group.rank == 0:
            self._tell(plan.moved)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "HookState: has connections, which can be neither copied nor pickled; use state_dict() "
            "of it, and model.module instead of a DistributedDataParallel that has it as its hook"
        )

    def __repr__(self) -> str:
        ranks = f"{self._num_workers} rank" + ("s" if self._num_workers > 1 else "")
        text = settings_text(self.config)
        return f"HookState({self._group.topology.label}, {ranks}, {text}, step {self.step})"

    def reduce(self, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        """Begin to average a bucket over the ranks; `dgc_topo.hook` calls this.

        Raises:
            HookError: if an earlier bucket failed: gradients are missing since then.
            ValueError: if the bucket holds parameters of another model.
        """
        if bucket.index() == 0:
            self._runner.refuse_after_failure()  # other buckets of that pass get the error as it is
            self._begin()
        buffer = bucket.buffer()
        layout = self._layouts.get(buffer)
        if layout is None:
            parameters = bucket.parameters()
            layout = BucketLayout.of([self._name(each) for each in parameters], parameters)
            self._layouts[buffer] = layout
        self._check_leftovers(layout)
        return self._runner.add(layout, buffer, is_last=bucket.is_last())

    def state_dict(self) -> dict[str, object]:
        """Return copies of all state by parameter name; call it between two steps.

        Its values are numbers, text and tensors, which `torch.load` reads with ``weights_only``.
        Each rank has a state of its own.
        """
        self._runner.abandon_interrupted()  # what it sent would be in no state
        saved = Saved(_KIND, self.step, self._compressors.state()).as_dict()
        return {**saved, "settings": dict(self._settings), "place": self._group.place}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from what `state_dict` returned, bit for bit, also with other buckets.

        Raises:
            ValueError: if it is another rank's, or does not fit the model, the settings, or what
                moved out of the optimizer; nothing is loaded then.
        """
        shapes = {name: each.shape for name, each in self._parameters.items()}
        sections = self._compressors.sections() if is_sparse(self.config.density) else ()
        saved = checked_state("hook", state, _KIND, shapes, sections)
        check_settings("hook", state.get("settings"), self._settings, _AS_AT_FIRST)
        check_place("hook", state.get("place"), self._group.place)
        self._compressors.load(saved.parameters)
        self.step = saved.step

    def staleness(self) -> Staleness:
        """Return how many steps elements waited (see `DGC.staleness`), with ``track_ages=True``."""
        return self._compressors.staleness()

    def describe(self) -> str:
        """Return a table of the parameters that are compressed after the warm-up, and of others."""
        return describe_dgc(self._trained, self.config.density, self.config.coding)

    def _reduction_with(self, decays: Mapping[str, float]) -> Reduction:
        if is_sparse(self.config.density):
            return Compressing(self._group, self._compressors, self._parameters, decays)
        return DenseMean(self._group, self.config.wire_dtype)

    @property
    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: each for name, each in self._parameters.items() if each.requires_grad}

    def _tell(self, moved: Takeover) -> None:
        """Log what is compressed, and what moved."""
        ranks = f"{self._num_workers} ranks" if self._num_workers > 1 else "one rank"
        title = f"hook over {self._group.topology.label}, {ranks}"
        tell_compression(title, self._trained, self.config)
        tell_takeover(moved)

    def _check_leftovers(self, layout: BucketLayout) -> None:
        """Refuse a gradient that was averaged before."""
        if self._leftovers is None or self._leftovers.name not in layout.names:
            return
        if self._leftovers.are_there:
            raise ValueError(
                f"hook: step {self._runner.number}: gradients that were averaged in an earlier "
                "backward pass are still there, and momentum in the hook would count them twice; "
                "expected zero_grad() after each step, and model.no_sync() for all backward passes "
                "before the last one, if several make up a step"
            )
        self._leftovers.note_averaged()

    def _name(self, parameter: Tensor) -> str:
        name = self._names.get(id(parameter))
        if name is None:
            raise ValueError(
                f"hook: a bucket holds a parameter of shape {tuple(parameter.shape)} that is not "
                "one of the model given to HookState, expected the model that it is registered on"
            )
        return name

    def _skips(self, optimizer: Optimizer, gradients: Sequence[Tensor]) -> bool:
        """Note a step; return True if it is to be skipped: ranks' gradients were not finite.

        A scaler skips by itself.  At density 1 nothing looks for infinities, as in DDP.
        """
        self._moves.note(optimizer)
        self._is_spoilt |= not self._runner.is_finite
        if not self._is_spoilt or scales(self._scaler):
            return False
        self._is_spoilt = not all(bool(each.isfinite().all()) for each in gradients)
        if self._is_spoilt:
            LOG.warning(
                "hook: a gradient is not finite in step %d, all ranks skip the optimizer's step; "
                "what was sent is kept for later ones",
                self._runner.number,
            )
        return self._is_spoilt

    def _begin(self) -> None:
        """Begin a step: the first bucket of a backward pass is there."""
        self._is_spoilt |= not self._runner.is_finite  # it may have been accumulated
        ddp = None if self._ddp is None else self._ddp()
        # A module that is not in DDP yet does not say.
        may_be_unused = ddp is None or bool(ddp.find_unused_parameters or ddp.static_graph)
        scale = scale_of(self._scaler)
        self._runner.begin(BackwardPass(self.step, scale, may_be_unused, self._moves))
        self.step += 1

    def _park(self, buffers: Mapping[str, Tensor]) -> None:
        """Go on with the momentum that the optimizer had collected, shared out over the ranks."""
        for name, buffer in buffers.items():
            section, factor = place_of_momentum(buffer, self.config, self._num_workers)
            values = in_memory_order(buffer).to(torch.float32)
            self._compressors.park(name, {section: values * factor})


def _skips(
    found: weakref.ref[HookState], optimizer: Optimizer, gradients: Sequence[Tensor]
) -> bool:
    state = found()
    return state is not None and state._skips(optimizer, gradients)  # noqa: SLF001  # its own


def _in_memory(parameters: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    return {name: in_memory_order(parameters[name]) for name in names}
