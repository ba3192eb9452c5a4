"""Watching of the ranks under a launcher: sentinels are started, and told where the others are.

The first rank's sentinel is known to all at once: whoever comes connects to it before all have
come.  Later every sentinel is connected to those at distances of powers of two as well, so that
news of a loss has several ways.
"""

from __future__ import annotations

import atexit
import ipaddress
import json
import logging
import os
import secrets
import socket
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed import distributed_c10d

from dgc_topo.liveness import Loss, Watched, current, end_with_launcher, make_current
from dgc_topo.runtime.breaking import break_connections, break_waits
from dgc_topo.workers.group import is_torchs
from dgc_topo.workers.roll_call import RollCall, telling
from dgc_topo.workers.seat import Seat

_LOG = logging.getLogger(__name__)
_TOKEN_BYTES = 16
_NEWS_S = 1.0  # that others, whose connections close first, need to say why
_BACKLOG = 128


class Watching:
    """One rank's part in the watching, and its `Liveness`, which becomes the process's.

    Args:
        store: Where the ranks tell each other their sentinels' addresses.
        seat: This process's.
        master: Host name or address of the first rank's machine.
    """

    def __init__(self, store: Store, seat: Seat, master: str) -> None:
        self._store, self._rank, self._world_size = store, seat.rank, seat.world_size
        self._master = master
        self._watched: Watched | None = None

    def begin(self, patience: timedelta) -> None:
        """Start this rank's sentinel, and have it connect to the first rank's; wait for that.

        Raises:
            RuntimeError: if the first rank does not come, or its store is lost.
        """
        if self._world_size == 1:
            return
        if self._rank == 0:
            token = secrets.token_hex(_TOKEN_BYTES) if Watched.is_possible() else None
            self._start(token, 0)
            return
        with telling(lambda: f"joining: rank {self._rank} waits for rank 0, which has not come"):
            self._store.wait(["0"], patience)
        first = json.loads(self._store.get("0"))
        self._start(first["token"] if Watched.is_possible() else None, first["port"])

    def _start(self, token: str | None, first_port: int) -> None:
        """Start the sentinel, if there is a token, and tell the others where it is."""
        own = {"host": _own_address(self._master), "port": 0, "token": None}
        if token is not None:
            listener = _listener()
            own |= {"port": listener.getsockname()[1]}
            watched = Watched(self._rank, self._world_size, token, listener)
            self._watched = watched
            make_current(watched)
            if self._rank == 0:
                own |= {"token": token}
            else:
                watched.watch(0, self._master, first_port)
                watched.whenever_lost(_break)  # rank 0 may be frozen, and its store with it
        self._store.set(str(self._rank), json.dumps(own))
        current().note("joining")

    def tend(self) -> Loss | None:
        """Return the first loss, if there is one."""
        return None if self._watched is None else self._watched.loss

    def leave(self) -> None:
        """Take leave of the others, who do not come together."""
        if self._watched is not None:
            self._watched.close()

    def complete(self, patience: timedelta) -> None:
        """Connect to the neighbours, now that all have come.

        Raises:
            RuntimeError: if the store is lost.
        """
        if (watched := self._watched) is None:
            return
        watched.note("connecting to all ranks")
        if self._rank == 0:  # which has told all others what it had to
            watched.whenever_lost(_break)
        for rank in neighbours(self._rank, self._world_size):
            if 0 < rank < self._rank:  # the higher one connects
                waits = f"joining: rank {self._rank} waits for rank {rank}"
                with telling(partial(str, waits), breaks=True):
                    self._store.wait([str(rank)], patience)
                other = json.loads(self._store.get(str(rank)))
                if other["port"]:
                    watched.watch(rank, self._reachable(other["host"]), other["port"])

    def _reachable(self, host: str) -> str:
        """Return a host's address for others; who is beside the first rank may not know its own."""
        return self._master if ipaddress.ip_address(host).is_loopback else host


def watch_group(group: dist.ProcessGroup, where: str, patience: timedelta) -> None:
    """Watch the ranks of a script's group from now on; all of them come here together.

    The ranks are called first.  Sentinels are started once in a process, for a group of all its
    ranks that met at a TCP store, as under any launcher.  Under torchrun the process ends with it
    from now on: orphans would train on, beside those of the next start.

    Args:
        group: The process group.
        where: What to call its user, in the log and in errors.
        patience: Longest wait for the other ranks.

    Raises:
        RollCallError: if a rank does not come, naming it.
        RuntimeError: if one is lost in the middle.
    """
    end_with_launcher()
    master, store = _meeting_of_default_group()
    rank, ranks = dist.get_rank(), dist.get_process_group_ranks(group)
    place = _places_of(group, store)
    RollCall(PrefixStore("came", place), rank, ranks, where).hold(patience)
    _PLACES[group.group_name] += 1
    if isinstance(current(), Watched) or master is None or len(ranks) < dist.get_world_size():
        return
    seat = Seat(group.rank(), group.size())
    _warn_of_shared_store(seat)
    # torchrun's store may outlive the processes that it starts again.
    store = PrefixStore(f"dgc-topo liveness {_number_of_start(group)}", store)
    watching = Watching(store, seat, master)
    watching.begin(patience)
    watching.complete(patience)
    atexit.register(_take_leave)
    # Who is lost from here on is named; who was before is missing there.
    RollCall(PrefixStore("watched", store), rank, ranks, where).hold(patience)


def break_when_lost(group: dist.ProcessGroup) -> None:
    """Have the waits in a group fail whenever a rank is lost, if this process hears of it."""
    if isinstance(watched := current(), Watched):
        watched.whenever_lost(lambda _: break_waits(group))


#: Number of times this process has come to such a place, by the group's name.
_PLACES: Counter[str] = Counter()


def _places_of(group: dist.ProcessGroup, store: Store) -> Store:
    """Return a store for the next place in the script to which all ranks of a group come."""
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"dgc-topo {start} {group.group_name} {_PLACES[group.group_name]}", store)


def _number_of_start(group: dist.ProcessGroup) -> int:
    """Return a number that all ranks of a group have alike, and no others."""
    on_cpu = "cpu" in dist.get_backend_config(group)
    device = "cpu" if on_cpu else "cuda"
    number = torch.tensor([secrets.randbits(62)], dtype=torch.int64, device=device)
    with telling(lambda: "joining: waits for the first message of the process group"):
        dist.broadcast(number, dist.get_global_rank(group, 0), group=group)
    return int(number)


def _warn_of_shared_store(seat: Seat, environment: Mapping[str, str] = os.environ) -> None:
    """Say how torchrun's restarts come to work, where they are wanted."""
    shared = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and seat.rank == 0 and environment.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        needed = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's environment"
        if environment.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") == "1":
            needed = (
                "--rdzv-backend c10d: with --master-addr or --master-port torchrun does not look "
                "at TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
            )
        _LOG.warning(
            "torchrun --max-restarts: all starts share one store, in which new processes find the "
            "addresses of lost ones, and init_process_group fails or hangs; expected %s",
            needed,
        )


def _meeting_of_default_group() -> tuple[str | None, Store]:
    """Return the default group's store, and its host: None if it is not a TCP store."""
    whole = store = distributed_c10d._get_default_store()  # noqa: SLF001
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    return (store.host if isinstance(store, TCPStore) else None), whole


def _take_leave() -> None:
    """Tell the others that this process ends in good order, or else why it does not.

    Where torch failed in a call of its own, in DistributedDataParallel or in the script, nobody has
    named the rank that it waited for.
    """
    error = getattr(sys, "last_value", None)
    if error is not None:
        if is_torchs(error) and current().verdict(_NEWS_S) is None:
            for each in current().ended[:1]:
                _LOG.error("rank %d ends with an error: %s", current().rank, each)
        current().fail(f"{type(error).__name__}: {error}")
    current().close()


def neighbours(rank: int, world_size: int) -> list[int]:
    """Return the ranks at distances of powers of two around the ring, rising."""
    distances = [1 << power for power in range((world_size - 1).bit_length())]
    around = {(rank + sign * step) % world_size for step in distances for sign in (1, -1)}
    return sorted(around - {rank})


def _break(_: Loss) -> None:
    """End the waiting of this process for others."""
    if dist.is_initialized():
        break_waits()
    else:
        break_connections()


def _listener() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
        )
    return socket.create_server(("", 0), backlog=_BACKLOG)


def _own_address(master: str) -> str:
    """Return this machine's address on the way to the first rank's; nothing is sent for that."""
    family, kind, protocol, _, address = socket.getaddrinfo(master, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as asked:
        asked.connect(address)
        return str(asked.getsockname()[0])
