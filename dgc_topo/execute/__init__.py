"""Run a schedule: on real ranks over torch.distributed, or on all of them in one process."""

from dgc_topo.execute.channel import Exchanged, Incoming, Outgoing
from dgc_topo.execute.communicator import Communicator
from dgc_topo.execute.compared import RanksDifferError
from dgc_topo.execute.failure import PeerError, Place
from dgc_topo.execute.in_process import run_in_process
from dgc_topo.execute.plan import ScheduleSource
from dgc_topo.execute.traffic import StepTraffic, Traffic
from dgc_topo.execute.transport import DistributedTransport, Transport

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
