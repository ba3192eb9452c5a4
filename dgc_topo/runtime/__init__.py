"""Run a schedule: on real ranks over torch.distributed, or on all of them in one process."""

from dgc_topo.runtime.channel import Exchanged, Incoming, Outgoing
from dgc_topo.runtime.communicator import Communicator
from dgc_topo.runtime.compared import RanksDifferError
from dgc_topo.runtime.failure import PeerError, Place
from dgc_topo.runtime.in_process import run_in_process
from dgc_topo.runtime.plan import ScheduleSource
from dgc_topo.runtime.traffic import StepTraffic, Traffic
from dgc_topo.runtime.transport import DistributedTransport, Transport

__all__ = [
    "Communicator",
    "DistributedTransport",
    "Exchanged",
    "Incoming",
    "Outgoing",
    "PeerError",
    "Place",
    "RanksDifferError",
    "ScheduleSource",
    "StepTraffic",
    "Traffic",
    "Transport",
    "run_in_process",
]
