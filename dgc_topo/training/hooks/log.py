"""Log lines of hooks: what is compressed, and what travels dense."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor

from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.parameters import describe_dgc
from dgc_topo.sizes import is_compressed, is_sparse

LOG = logging.getLogger("dgc_topo.hook")


def tell_compression(title: str, trained: Mapping[str, Tensor], config: DGCConfig) -> None:
    """Log in one line what is compressed; a warning if nothing is.

    Args:
        title: What the hook is, in words.
        trained: Parameters that get gradients, by name.
        config: DGC's settings.
    """
    if not is_sparse(config.density):
        LOG.info("%s: density 1, nothing is compressed", title)
        return
    verdict, *_ = describe_dgc(trained, config.density, config.coding).splitlines()
    dense = [name for name, each in trained.items() if not is_compressed(each.shape)]
    text = f"{title}: {verdict}; dense: {_listed(dense)}"
    if len(dense) == len(trained):
        LOG.warning("%s. Nothing is compressed: no parameter has more than one dimension", text)
    else:
        LOG.info("%s", text)


def _listed(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more
