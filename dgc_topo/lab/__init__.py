"""The lab: hosts with real TCP at a chosen rate, on one machine."""

from dgc_topo.lab.counters import HostCounters
from dgc_topo.lab.lab import Lab, LabProcess
from dgc_topo.lab.spec import LabError, LabSpec, LinkChange

__all__ = ["HostCounters", "Lab", "LabError", "LabProcess", "LabSpec", "LinkChange"]
