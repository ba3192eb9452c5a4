"""The command line ``dgc-topo``: the only place that prints."""

from dgc_topo.cli.main import main

__all__ = ["main"]
