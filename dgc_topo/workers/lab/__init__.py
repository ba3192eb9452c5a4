"""The lab: hosts with real TCP at a chosen rate, on one machine."""

from dgc_topo.workers.lab.counters import CounterError, HostCounters, check_sent
from dgc_topo.workers.lab.doctor import Diagnosis, examine
from dgc_topo.workers.lab.emulator import Lab
from dgc_topo.workers.lab.remote import LabProcess
from dgc_topo.workers.lab.spec import LabChange, LabError, LabSpec

__all__ = [
    "CounterError",
    "Diagnosis",
    "HostCounters",
    "Lab",
    "LabChange",
    "LabError",
    "LabProcess",
    "LabSpec",
    "check_sent",
    "examine",
]
