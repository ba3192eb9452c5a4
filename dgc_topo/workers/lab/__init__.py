"""The lab: an emulated cluster on one machine, with real TCP at chosen rates."""

from dgc_topo.workers.lab.counters import CounterError, HostCounters, check_sent
from dgc_topo.workers.lab.doctor import Diagnosis, examine
from dgc_topo.workers.lab.emulator import Lab
from dgc_topo.workers.lab.spec import LabChange, LabError, LabSpec

__all__ = [
    "CounterError",
    "Diagnosis",
    "HostCounters",
    "Lab",
    "LabChange",
    "LabError",
    "LabSpec",
    "check_sent",
    "examine",
]
