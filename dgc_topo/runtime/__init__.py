"""Run a schedule: on real ranks over torch.distributed, or on all of them in one process."""

from dgc_topo.runtime.collective import all_reduce
from dgc_topo.runtime.communicator import Communicator
from dgc_topo.runtime.comparison import RanksDifferError
from dgc_topo.runtime.failure import PeerError, StepPlace
from dgc_topo.runtime.in_process import run_in_process
from dgc_topo.runtime.program import Program
from dgc_topo.runtime.traffic import StepTraffic, Traffic
from dgc_topo.runtime.transport import DistributedTransport, Transport

__all__ = [
    "Communicator",
    "DistributedTransport",
    "PeerError",
    "Program",
    "RanksDifferError",
    "StepPlace",
    "StepTraffic",
    "Traffic",
    "Transport",
    "all_reduce",
    "run_in_process",
]
