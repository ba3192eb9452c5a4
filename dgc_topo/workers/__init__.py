"""Worker processes: run a function on each, on this machine's loopback or on a lab's hosts.

A function is named ``"module:function"`` and is called as ``function(worker, argument)`` on every
rank, inside an initialised process group: *worker* is a `dgc_topo.workers.group.Worker`, *argument*
and what it returns are JSON values.

    with Lab(LabSpec(num_hosts=4, rate_bits_per_s=100e6)) as lab:
        results = run_on(lab, "package.module:function", {"size": 1000}, world_size=4)

Starting processes and importing torch costs seconds; a `Session` keeps them for several calls.
"""

from dgc_topo.workers.hosts import Hosts, Loopback, Process
from dgc_topo.workers.session import Session, run_on
from dgc_topo.workers.worker_pool import LaunchError

__all__ = ["Hosts", "LaunchError", "Loopback", "Process", "Session", "run_on"]
