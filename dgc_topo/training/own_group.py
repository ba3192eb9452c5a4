"""`OwnGroup`: a process group and a topology of one's own, beside those of the user's script."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor

from dgc_topo.averaging import Attendance
from dgc_topo.liveness import current
from dgc_topo.payload import DensePayload, Payload
from dgc_topo.runtime import Communicator, DistributedTransport, PeerError, Traffic
from dgc_topo.runtime.breaking import break_waits
from dgc_topo.runtime.comparison import topology_settings
from dgc_topo.schedule import Goal
from dgc_topo.topology import Topology, load_topology
from dgc_topo.training.difference_board import DifferenceBoard
from dgc_topo.training.group_checks import check_process_group, check_schedule
from dgc_topo.training.marks import DisagreementError
from dgc_topo.training.setting import elements_of
from dgc_topo.training.twin_groups import twin_of
from dgc_topo.training.waiting import Waits
from dgc_topo.workers.group import naming_losses
from dgc_topo.workers.plain_values import bytes_of
from dgc_topo.workers.roll_call import telling
from dgc_topo.workers.watching import break_when_lost, watch_group

#: As in torch's own groups: a rank may evaluate or save for a while, and the others wait.
DEFAULT_TIMEOUT = timedelta(minutes=30)

_TAGS = 1 << 24  # of the messages of one transport


class OwnGroup:
    """The ranks of a group, on connections of their own, with a topology between them.

    Every rank of *group* has to make it at the same point of its script.  Messages cannot be
    mistaken for those of the script.

    Args:
        where: Name of the owner in errors.
        topology: A topology, its text form, or the path of its file.
        group: The ranks; None is the default group's.
        seed: For topologies that draw at random; the same on every rank.
        timeout: Longest time that a step may take, waiting for slower ranks included.
        sums_all: Take only a topology that sums what every rank contributes.
        goals: Goals of other topologies that are taken, beside all-reduces and averages.

    Attributes:
        topology: The topology.
        rank: This process's rank in the group.
        world_size: Number of ranks.
        contributors: Ranks that train; any other is a dedicated server.
        gossips: True if ranks end with mixtures instead of one sum.
        takes_two: True if `run_beside` is possible.
        seed: See above.

    Raises:
        TopologyError: if there is no such topology, or it cannot run with this world size.
        ValueError: if there is no process group, this process is not in it, or the topology
            neither all-reduces nor averages; with *sums_all* also if it gossips, or has servers
            that do not train.
    """

    def __init__(
        self,
        where: str,
        topology: Topology | str | Path,
        group: dist.ProcessGroup | None = None,
        *,
        seed: int = 0,
        timeout: timedelta = DEFAULT_TIMEOUT,
        sums_all: bool = False,
        goals: frozenset[Goal] = frozenset(),
    ) -> None:
        check_process_group(where, group)
        if not isinstance(topology, Topology):
            topology = load_topology(str(topology))
        if not isinstance(timeout, timedelta):
            raise ValueError(  # noqa: TRY004  a wrong argument is a wrong value, as everywhere
                f"{where}: timeout {timeout!r}, expected a datetime.timedelta"
            )
        self.where, self.topology, self.seed = where, topology, seed
        first = topology.schedule(dist.get_world_size(group), seed=seed)
        if first.goal not in goals:
            check_schedule(f"{where}: topology {topology.label}", first, sums_all=sums_all)
        self.gossips = first.goal != "all-reduce"
        self.contributors: list[int] = first.contributors.tolist()
        self._group = _watched_twin(where, group, timeout)
        self.rank, self.world_size = dist.get_rank(self._group), dist.get_world_size(self._group)
        self._transport = DistributedTransport(self._group, timeout)
        self._communicator = Communicator(topology, self._transport, seed)
        self.takes_two = self._transport.tells_apart
        self._second = Communicator(
            topology,
            DistributedTransport(self._group, timeout, longest_wait_s=None, first_tag=_TAGS),
            seed,
            compare=False,
        )
        butterfly = load_topology("butterfly")
        self._butterfly = Communicator(butterfly, self._transport, compare=False)
        self._catching_up = self._butterfly
        # For messages of its own beside those of the training, which compares payloads.
        self._beside = Communicator(topology, self._transport, seed, compare=False)
        self._differences = DifferenceBoard(self._group)
        look = partial(_break_if_told, weakref.ref(self))
        self._waits = Waits(self.where, self.rank, look=look)
        self._second_waits = Waits(self.where, self.rank, look=look)
        self._under_way: set[Waits] = set()
        self._failure: BaseException | None = None
        _ALL.add(self)

    @property
    def place(self) -> dict[str, int]:
        """Place of this rank's state among those of all, for snapshots."""
        return {"rank": self.rank, "world_size": self.world_size}

    @property
    def num_workers(self) -> int:
        """Number of ranks that train."""
        return len(self.contributors)

    @property
    def contributes(self) -> bool:
        """True unless this rank is a dedicated server."""
        return self.rank in self.contributors

    def run(self, payload: Payload, iteration: int, step: int | None = None) -> Traffic:
        """Run the topology's schedule on *payload*, in place; see `Communicator.run`.

        Args:
            payload: This rank's.
            iteration: See `Communicator.run`.
            step: Number of the training step, where it is not the iteration.

        Raises:
            RuntimeError: after an earlier error, which it names.
        """
        step = iteration if step is None else step
        return self._guarded(self._communicator, payload, iteration, step)

    def run_beside(self, payload: Payload, iteration: int) -> Traffic:
        """Run the schedule on a payload in CPU memory while `run` is under way on another thread.

        Every rank makes the same runs this way.  Where one of both waits for a message, the other
        goes on.

        Raises:
            RuntimeError: as `run`.
        """
        return self._guarded(self._second, payload, iteration, iteration, self._second_waits)

    def arrange(self, attendance: Attendance) -> None:
        """Run the topology from now on among those that take part in an exchange.

        Ranks that are left out cannot compare their settings in the first run, so all ranks have to
        have compared them before.
        """
        if not attendance.is_full:
            arranged = attendance.arranged(self.topology)
            self._communicator, self._beside, self._catching_up = (
                Communicator(topology, self._transport, self.seed, compare=False)
                for topology in (arranged, arranged, attendance.catching_up())
            )

    def catch_up(self, payload: Payload, iteration: int, step: int) -> Traffic:
        """Give, or get, what ranks lack that were left out before, in place; see `run`.

        Raises:
            RuntimeError: as `run`.
        """
        return self._guarded(self._catching_up, payload, iteration, step)

    def counts(
        self, flags: Sequence[bool], device: torch.device, step: int | None = None
    ) -> list[float]:
        """Return the number of ranks that set each flag.

        Args:
            flags: This rank's.
            device: They travel by its connections.
            step: Number of the training step, to be told of a wait that lasts.
        """
        votes = torch.tensor(flags, dtype=torch.float32, device=device)
        self._guarded(self._butterfly, DensePayload(votes), 0, step)
        found: list[float] = votes.tolist()
        return found

    def heard(
        self, flags: Sequence[bool], device: torch.device, iteration: int, step: int
    ) -> list[float]:
        """Return flags, mixed by the topology: above 0 where a rank heard from has set them.

        Args:
            flags: This rank's.
            device: They travel by its connections.
            iteration: See `run`.
            step: See `run`.
        """
        values = torch.tensor(flags, dtype=torch.float32, device=device)
        goals = frozenset({self._beside.schedule(iteration).goal})
        self._guarded(self._beside, DensePayload(values, goals=goals), iteration, step)
        found: list[float] = values.tolist()
        return found

    def mean(self, flat: Tensor) -> Tensor:
        """Return the mean over all ranks, the same bits on each, over a butterfly.

        Args:
            flat: Shape (length,), float32, contiguous; overwritten.
        """
        self._guarded(self._butterfly, DensePayload(flat), 0)
        return flat.div_(self.world_size)

    def compare(self, settings: Mapping[str, Any]) -> None:
        """Compare topology, seed and JSON values with those of every other rank, by key.

        Raises:
            RanksDifferError: on every rank, naming ranks, keys and values.
        """
        if self.world_size > 1:
            own = topology_settings(self.topology, self.world_size, self.seed)
            self._transport.compare(self.where, {**own, "seed": self.seed, **settings})

    def name_difference(self, settings: Mapping[str, Any]) -> NoReturn:
        """End with the error that names in what ranks differ, now that some have found out.

        The others are told, wherever they wait in this group.

        Args:
            settings: What this rank is at: JSON values by key.

        Raises:
            RanksDifferError: in any case.
        """
        error = self._differences.tell(self.where, settings)
        self.fail(error)
        raise error

    @torch.no_grad()
    def make_equal(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank the first contributor's tensors, bit for bit; shapes must agree.

        They have passed `check_settable`.
        """
        source = dist.get_global_rank(self._group, self.contributors[0])
        for tensor in map(elements_of, tensors):
            whole = tensor.detach().resolve_conj().resolve_neg().contiguous()
            as_bytes = bytes_of(whole)  # a backend may not know the type
            if as_bytes.numel():
                with naming_losses(f"{self.where}: rank {self.rank}"), self._waits.one(None):
                    dist.broadcast(as_bytes, source, group=self._group)
            if whole.data_ptr() != tensor.data_ptr():
                tensor.copy_(whole)

    def refuse_after_error(self) -> None:
        """Refuse to go on after an error: what ranks hold may differ since.

        Raises:
            RuntimeError: naming the first error.
        """
        if self._failure is not None:
            raise RuntimeError(
                f"{self.where}: unusable after an earlier error: {self._failure}"
            ) from self._failure

    def fail(self, error: BaseException) -> None:
        """Refuse all further runs, because of *error*."""
        self._failure = self._failure or error

    def close(self) -> None:
        """Let go of the group; nothing can run any more."""
        self.fail(RuntimeError("closed"))
        del self._communicator, self._second, self._beside, self._catching_up, self._butterfly
        del self._transport, self._group

    def _guarded(
        self,
        communicator: Communicator,
        payload: Payload,
        iteration: int,
        step: int | None = None,
        waits: Waits | None = None,
    ) -> Traffic:
        self.refuse_after_error()
        liveness, waits = current(), waits or self._waits
        self._under_way.add(waits)
        liveness.note(f"averaging for the {self.where}", step)
        try:
            with waits.one(step):
                traffic = communicator.run(payload, iteration)
        except BaseException as error:
            if isinstance(error, PeerError) and step is not None:
                error.reason = f"training step {step}: {error.reason}"
            self.fail(error)
            if isinstance(error, PeerError) and self._differences.are_told():
                raise DisagreementError(f"{self.where}: ranks differ, as others found") from error
            raise
        self._under_way.discard(waits)
        if not self._under_way:
            liveness.note("computing")
        return traffic

    def _break_if_told(self) -> None:
        """End a wait for ranks that have found that ranks differ, and do not come."""
        group = getattr(self, "_group", None)  # none once closed
        if group is not None and self._differences.are_told():
            break_waits(group)


def _break_if_told(found: weakref.ref[OwnGroup]) -> None:
    own = found()
    if own is not None:
        own._break_if_told()  # noqa: SLF001  # its own


def _watched_twin(
    where: str, group: dist.ProcessGroup | None, timeout: timedelta
) -> dist.ProcessGroup:
    """Return a group of the same ranks, all of which have come, and are watched from now on.

    Raises:
        RollCallError: naming those that have not come.
        GroupPeerError: if a rank is lost meanwhile.
    """
    own = dist.group.WORLD if group is None else group
    assert own is not None
    rank = dist.get_rank()
    with naming_losses(f"{where}: rank {rank}"):
        watch_group(own, where, timeout)
        waits = f"{where}: rank {rank} waits for connections to the other ranks"
        with telling(lambda: waits, breaks=True):
            twin = twin_of(own, timeout)
    break_when_lost(twin)
    return twin


#: All that are alive.
_ALL: WeakSet[OwnGroup] = WeakSet()


def _close_all() -> None:
    for each in list(_ALL):
        each.close()


# Before torch shuts down: groups that outlive it may abort the process.
atexit.register(_close_all)
