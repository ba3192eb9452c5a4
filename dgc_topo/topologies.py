"""The built-in topologies: the folder ``topologies`` of a checkout, under the package's name.

A wheel has that folder in place of this module, so that ``dgc_topo.topologies.ring`` is the same in
both.  No other folder called ``topologies`` is ever searched.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parents[1] / "topologies")]
