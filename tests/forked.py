"""Workers that are there at once: forked from one process, which all tests of a run share.

Importing torch takes a processor 2 s for every worker, most of the time of a small training.
"""

import atexit
from functools import cache

from dgc_topo.workers import Loopback
from dgc_topo.workers.forks import ForkedLoopback, can_fork

#: What workers of tests need; what else they import is imported in each of them.
MODULES = ("dgc_topo.training.loop", "dgc_topo.training.ddp", "tests.workers.jobs")


@cache
def forked() -> Loopback:
    """Return this machine's loopback; it starts when it is first asked for."""
    if not can_fork():
        return Loopback()
    hosts = ForkedLoopback(MODULES)
    hosts.__enter__()
    atexit.register(hosts.__exit__, None, None, None)
    return hosts
