"""`DistributedOptimizer`: any torch.optim.Optimizer, made to train together with other ranks."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from dgc_topo.averaging import Averaging, load_averaging
from dgc_topo.compression.parameters import check_parameters
from dgc_topo.compression.resharding import state_for
from dgc_topo.topology import Topology
from dgc_topo.training.marks import DisagreementError
from dgc_topo.training.optimizer.averaged import shared_out
from dgc_topo.training.optimizer.choice import (
    Choice,
    check_names,
    config_of_steps,
    described,
    names_of,
    refuse_optimizer,
    rule_for,
    shared_settings,
    trained_groups,
)
from dgc_topo.training.optimizer.facade import Facade
from dgc_topo.training.optimizer.rules import scale_gradients
from dgc_topo.training.optimizer.snapshots import check_state
from dgc_topo.training.own_group import DEFAULT_TIMEOUT, OwnGroup
from dgc_topo.training.setting import check_settable, tensors_of

_WHERE = "distributed optimizer"
STATE_KEY = "dgc_topo"  #: of our state, beside that of the user's optimizer

_log = logging.getLogger("dgc_topo.optimizer")


class DistributedOptimizer(Facade):
    """A torch.optim.Optimizer that trains together with the other ranks; wraps the script's own.

    At the start every rank gets the first one's parameters and buffers.  From then on only `step`
    sends: backward passes may add up gradients in between.  Learning-rate schedules, GradScaler
    and hooks take it as any optimizer; `param_groups` and `state` are those of *optimizer*.  The
    rule follows from optimizer, density and topology:

    * ``average``, at density 1: gradients are averaged, and the optimizer makes its step, as in
      plain data parallel training.
    * ``momentum correction``, SGD below density 1: Deep Gradient Compression.  Momentum and weight
      decay move into the compressor.
    * ``update``, any other below density 1 (AdamW): each rank's optimizer steps on its own
      gradient; the changes of the parameters are compressed with a residual, and averaged.
    * ``gossip``, on a topology that gossips: parameters are averaged with the neighbours' (D-PSGD).
    * any other with *averaging*: steps of one's own, and an exchange in every H-th of them, as in
      local SGD, DiLoCo and SparseLoCo.

    A gradient that is not finite, on any rank, makes all skip the step, and nothing is lost; in
    gossip, and with *averaging*, its own rank alone skips.

    Args:
        optimizer: The optimizer of *model*'s parameters, or of some of them.  It is not to be used
            directly any more.
        model: The model, not wrapped in DistributedDataParallel or FSDP.
        topology: A topology, its text form such as ``gossip:graph=ring``, or the path of its file.
        density: Fraction of each matrix that is sent, above 0; a number, or a text such as "1%".
        group: The ranks that train together; None is the default process group.
        seed: For topologies that draw at random; the same on every rank.
        warm_up_steps: Steps in which density falls to *density*: with SGD in the paper's four
            stages, else in eight equal ratios.
        clip_norm: Bound on the L2 norm of the whole gradient.  At density 1 it is that of the mean.
            Below, each rank clips its own, at ``clip_norm * sqrt(ranks)``; in gossip at clip_norm.
        look_ahead: With AdamW and the like, the share (0 to 1) of its own unsent changes that a
            rank already works with.  Its model is then its own: see `shared_parameters`.
        averaging: An averaging rule or its text form, such as ``diloco:every=50``; None follows
            from the rest, see above.  Between exchanges each rank's model is its own: see
            `shared_parameters`.
        timeout: Longest wait for another rank in a step.
        settings: Other settings of `DGCConfig`, by name, such as ``wire_dtype="float16"``.

    Attributes:
        steps: Calls of `step` so far.
        skipped_steps: Those of them in which a gradient was not finite.

    Raises:
        ValueError: if there is no process group, optimizer and model do not fit together, or the
            optimizer, a setting or the topology cannot work; on every rank alike, and before any
            parameter is touched.
        RanksDifferError: if ranks differ in model, optimizer or settings.

    Example:
        >>> import torch, torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> model = torch.nn.Linear(8, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> optimizer = dt.DistributedOptimizer(optimizer, model, "ring", density=0.5)
        >>> model(torch.ones(4, 8)).sum().backward()
        >>> optimizer.step()  # sends and receives
        >>> optimizer.rule
        'momentum correction'
        >>> dist.destroy_process_group()
    """

    #: GradScaler calls `step` on every rank, whatever it found in its gradients, and leaves the
    #: rest to this class: the ranks decide together.
    _step_supports_amp_scaling = True

    def __init__(  # noqa: PLR0913  # each has a name
        self,
        optimizer: Optimizer,
        model: nn.Module,
        topology: Topology | str | Path = "ring",
        density: float | str = 1.0,
        *,
        group: dist.ProcessGroup | None = None,
        seed: int = 0,
        warm_up_steps: int = 0,
        clip_norm: float | None = None,
        look_ahead: float = 0.0,
        averaging: Averaging | str | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        **settings: Any,
    ) -> None:
        config = config_of_steps(_WHERE, density, warm_up_steps, clip_norm, settings)
        chosen = None if averaging is None else load_averaging(averaging)
        refuse_optimizer(_WHERE, optimizer)
        self._names = names_of(_WHERE, optimizer, model)
        tensors = tensors_of(model)
        check_settable(_WHERE, tensors)
        super().__init__(optimizer)
        goals = frozenset() if chosen is None else chosen.goals
        self._own = OwnGroup(_WHERE, topology, group, seed=seed, timeout=timeout, goals=goals)
        choice = Choice(config, chosen, look_ahead, tuple(settings))
        self._new_rule = partial(rule_for, _WHERE, optimizer, self._own, choice)
        self.steps = self.skipped_steps = 0
        self._begin()
        own_code = chosen.code if chosen else None
        texts = {"averaging's text": own_code.digest} if own_code else {}
        self._own.compare({**shared_settings(optimizer, self.rule, model, choice), **texts})
        self._own.make_equal(tensors.values())
        self._rule.start()
        if self._own.rank == 0:
            _log.info("%s", self.describe())

    @property
    def rule(self) -> str:
        """Name of the rule: average, momentum correction, update, gossip, or *averaging*."""
        return self._rule.name

    @property
    def trains(self) -> bool:
        """False on a dedicated server, whose gradients count as zeros."""
        return self._own.contributes

    def __repr__(self) -> str:
        topology, ranks = self._own.topology, self._own.world_size
        return f"DistributedOptimizer({self._wrapped!r}, {self.rule}, {topology}, {ranks} ranks)"

    def describe(self) -> str:
        """Describe the rule, and which parameters are compressed and which are not."""
        return f"{_WHERE}: {self.rule} over {self._own.topology}: {self._rule.describe()}"

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step together with all other ranks; every rank calls it equally often.

        Args:
            closure: Function that computes the gradients and returns the loss; called once.

        Returns:
            The closure's loss.

        Raises:
            RanksDifferError: on every rank, if they train other parameters, have other learning
                rates or the like, or are at other steps.
            PeerError: if a peer is lost or silent.
            RuntimeError: in every step after an error.
        """
        self._own.refuse_after_error()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._follow()
        self._unscale()
        self._rule.check()
        try:
            done = self._step_or_name_difference()
        except BaseException as error:
            self._own.fail(error)  # ranks may hold different parameters now
            raise
        self.steps += 1
        if not done:
            self._note_skipped()
        # A schedule of learning rates made for the wrapped optimizer looks for its own step.
        self._wrapped._opt_called = True  # type: ignore[attr-defined]  # noqa: SLF001
        return loss

    @contextmanager
    def shared_parameters(self) -> Iterator[None]:
        """Put the parameters that all ranks share into the model while a block runs.

        For evaluation, and for saving the model, where each rank has its own: in gossip, and
        between the exchanges of other averaging rules, they are the mean over the ranks; with
        *look_ahead* the parameters without what only this rank knows.  Otherwise the model has them
        anyway.  Every rank enters the block.
        """
        with self._rule.sharing():
            yield

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters of the model to those that are trained; every rank does so.

        Raises:
            ValueError: if one is not the model's.
        """
        given = param_group["params"]
        group = {**param_group, "params": [given] if isinstance(given, Tensor) else list(given)}
        check_names(_WHERE, group["params"], self._names)
        super().add_param_group(group)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's snapshot with this rank's compressor state.

        Below density 1 every rank saves its own; `state_for` makes those of another number of
        ranks out of them.
        """
        counts = {"steps": self.steps, "skipped_steps": self.skipped_steps}
        own = {**self._identity(), **counts, **self._rule.state()}
        return {**self._wrapped.state_dict(), STATE_KEY: own}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a snapshot, bit for bit, or begin with that of a plain optimizer.

        Raises:
            ValueError: if it is another model's, another rule's, of another kind of optimizer,
                or, below density 1, another rank's; nothing is loaded then.
        """
        plain = {key: value for key, value in state_dict.items() if key != STATE_KEY}
        own = state_dict.get(STATE_KEY)
        if own is None:
            self._wrapped.load_state_dict(plain)
            self._begin()
            self._rule.start()
            return
        own = {"optimizer": type(self._wrapped).__name__, **own}  # earlier ones do not say
        check_state(_WHERE, own, identity := self._identity())
        before = self._rule.state()
        names = {*identity, "steps", "skipped_steps"}
        self._rule.load_state({key: own[key] for key in own if key not in names})
        try:
            self._wrapped.load_state_dict(plain)
        except BaseException:
            self._rule.load_state(before)
            raise
        self._follow()
        self.steps, self.skipped_steps = own["steps"], own["skipped_steps"]

    def state_for(
        self, states: Sequence[Mapping[str, Any]], rank: int, world_size: int
    ) -> dict[str, Any]:
        """Return a rank's snapshot, made of those of all ranks of a world of another size.

        What has not been sent is shared out anew, and its sum stays.  Between exchanges all go on
        from the mean of their parameters, which `load_state_dict` then sets.  Where ranks have
        moments of their own (AdamW below density 1, gossip), a rank takes those of a former rank.

        Args:
            states: What `state_dict` returned on each former rank, in their order.
            rank: The rank in this optimizer's group.
            world_size: Number of ranks in it.

        Raises:
            ValueError: if it has another number of ranks, or the snapshots do not belong together.
        """
        if world_size != self._own.world_size:
            raise ValueError(
                f"{_WHERE} state: for {world_size} ranks, expected {self._own.world_size}"
            )
        workers = self._own.contributors
        # A dedicated server would keep its share for ever, so it gets none.
        place = workers.index(rank) if rank in workers else len(states)
        found: dict[str, Any] = state_for(states, place, len(workers))
        shared_out(found.get(STATE_KEY, {}), [state.get(STATE_KEY, {}) for state in states])
        if "place" in (own := found.get(STATE_KEY, {})):
            own["place"] = {"rank": rank, "world_size": world_size}
        return found

    def _identity(self) -> dict[str, Any]:
        """Return what a snapshot has to be of."""
        kind, names = type(self._wrapped).__name__, sorted(self._names.values())
        return {"rule": self.rule, "optimizer": kind, "parameters": names}

    def _begin(self) -> None:
        """Begin with a rule that has no state but the optimizer's."""
        self._rule = self._new_rule()
        self._seen: object = None
        self._follow()

    def _follow(self) -> None:
        """Follow what was done to the wrapped optimizer's groups, and to its parameters."""
        self._share()
        for group in self.param_groups:
            for parameter in group["params"]:
                if not parameter.requires_grad:
                    parameter.grad = None  # of this rank alone, from before it was frozen
        groups = trained_groups(self._wrapped, self._names)
        seen = [list(group) for group in groups]
        if seen != self._seen:
            check_parameters(_WHERE, {name: p for group in groups for name, p in group.items()})
            self._rule.train(groups)
            self._seen = seen

    def _step_or_name_difference(self) -> bool:
        """Make the rule's step; if ranks turn out to differ, find out in what.

        Raises:
            RanksDifferError: naming ranks and what differs.
        """
        try:
            return self._rule.step(self.steps, self.steps - self.skipped_steps)
        except DisagreementError:
            counts = {
                "step": self.steps,
                "skipped steps": self.skipped_steps,
                "parameters were set by the script": self._rule.was_set,
            }
            self._own.name_difference({**counts, **described(self._wrapped, self._names)})

    def _note_skipped(self) -> None:
        """Count a skipped step; GradScaler knows why, but others have to be told."""
        self.skipped_steps += 1
        if self.skipped_steps == 1 and not hasattr(self, "grad_scale"):
            warnings.warn(
                f"{_WHERE}: a gradient was not finite in step {self.steps - 1}, on this rank or "
                "another one: the step was skipped, and later ones like it are (see skipped_steps)",
                stacklevel=4,
            )

    def _unscale(self) -> None:
        """Divide the gradients by GradScaler's factor, if it has not been done yet."""
        scale: Tensor | None = getattr(self, "grad_scale", None)
        if scale is not None:
            scale_gradients(self._rule.parameters, 1 / float(scale))
