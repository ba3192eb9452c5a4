"""The built-in topologies: a checkout keeps them in its folder ``topologies``, a wheel in here.

A wheel has that folder in place of this module.  So ``dgc_topo.topologies.ring`` is the same in
both, and no folder that somebody else calls ``topologies`` is ever looked into.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parents[1] / "topologies")]
