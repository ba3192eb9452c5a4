"""Functions that worker processes run in tests of the lab."""

import socket
import time
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from dgc_topo.experiments.calibration import probing
from dgc_topo.network.calibrated import CalibratedNetwork, Parameters
from dgc_topo.payload import DensePayload
from dgc_topo.runtime import Communicator, DistributedTransport, PeerError
from dgc_topo.runtime.connections import congestion_controls, connections
from dgc_topo.topology import load_topology
from dgc_topo.workers.group import Worker
from dgc_topo.workers.lab.spec import address_of


def stream(worker: Worker, argument: Any) -> list[float]:
    """Send and receive as told, all at once; return the seconds of each repetition.

    *argument* has ``pairs`` (source, destination), ``num_bytes`` of each, and ``repeat``.
    """
    seconds = []
    buffers = torch.ones(len(argument["pairs"]), argument["num_bytes"], dtype=torch.uint8)
    for _ in range(argument["repeat"]):
        worker.barrier("before streaming")
        start = time.perf_counter()
        # Receives first: over Gloo the other order halves the speed of an exchange.
        works = [dist.irecv(b, s) for b, (s, d) in _of(buffers, argument, 1, worker.rank)]
        works += [dist.isend(b, d) for b, (s, d) in _of(buffers, argument, 0, worker.rank)]
        for work in works:
            assert work is not None
            work.wait()
        seconds.append(time.perf_counter() - start)
    return seconds


def _of(buffers: torch.Tensor, argument: Any, end: int, rank: int) -> list[Any]:
    pairs = argument["pairs"]
    return [(b, pair) for b, pair in zip(buffers, pairs, strict=True) if pair[end] == rank]


def all_reduce(worker: Worker, argument: Any) -> dict[str, Any]:
    """Run a topology; return what the executor says it moved, or the error's peers and text."""
    transport = DistributedTransport(timeout=timedelta(seconds=argument.get("timeout_s", 60)))
    communicator = Communicator(load_topology(argument["topology"]), transport)
    sent, messages = 0, 0
    for _ in range(argument["repeat"]):
        payload = DensePayload(torch.full((argument["elements"],), float(worker.rank)))
        try:
            traffic = communicator.run(payload)
        except PeerError as error:
            return {"peers": list(error.peers), "says": str(error)}
        sent, messages = sent + traffic.bytes_sent, messages + traffic.messages_sent
    return {"sent": sent, "messages": messages, "controls": congestion_controls()}


def unsent_limits(worker: Worker, argument: Any) -> list[int]:
    """Run a ring on 2 MB; return what may wait to leave, of each connection that has a limit."""
    transport = DistributedTransport(longest_wait_s=argument["longest_wait_s"])
    Communicator(load_topology("ring"), transport).run(DensePayload(torch.ones(500_000)))
    limits = [each.getsockopt(socket.IPPROTO_TCP, 25) for each in connections()]
    return [limit for limit in limits if limit > 0]  # -1 or 0: none


def overtake(worker: Worker, argument: Any) -> float:
    """Rank 0 sends many packets to rank 1 at once, and then one to rank 2.

    Returns:
        When rank 0 sent the one, and when rank 2 got it, on the machine's clock; 0 on rank 1.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.settimeout(10)
        own.bind((address_of(worker.rank), argument["port"]))
        worker.barrier("before sending")
        if worker.rank == 1:
            return 0.0
        if worker.rank == 2:
            own.recv(2000)
            return time.perf_counter()
        for _ in range(argument["packets"]):
            own.sendto(bytes(1400), (address_of(1), argument["port"]))
        began_s = time.perf_counter()
        own.sendto(bytes(1400), (address_of(2), argument["port"]))
        return began_s


def probed(worker: Worker, argument: Any) -> dict[str, Any]:
    """Probe the network between all ranks; return the findings on rank 0, without a fit."""

    def fit_network(
        name: str, _: object, fixed: Parameters, rate: float, **__: object
    ) -> CalibratedNetwork:
        return CalibratedNetwork(
            name=name,
            machine="none",
            rate_bits_per_s=rate,
            parameters=fixed,
            median_fit_error=0.0,
            worst_fit_error=0.0,
        )

    with patch.object(probing, "fit_network", fit_network):
        found = probing.probe(worker, "lab", longest_s=argument["longest_s"])
    return found.as_dict() if found else {}
