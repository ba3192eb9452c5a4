"""Old names of modules, which can be imported for one release and say the new ones."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: New modules of each old one, and of the modules inside it; names are looked for in this order.
_MOVED = {
    "dgc_topo.execute": ("dgc_topo.runtime",),
    "dgc_topo.lab": ("dgc_topo.workers.lab",),
    "dgc_topo.scenario": ("dgc_topo.experiments.scenario",),
    "dgc_topo.simulate": ("dgc_topo.simulation", "dgc_topo.network"),
    "dgc_topo.verify": ("dgc_topo.proof",),
}
_RENAMED = {
    ("dgc_topo.lab", "LinkChange"): "LabChange",
    ("dgc_topo.simulate", "HostCosts"): "EndCosts",
    ("dgc_topo.simulate", "Progress"): "ScheduleProgress",
    ("dgc_topo.simulate", "Result"): "ScheduleRun",
    ("dgc_topo.simulate", "SparseSizes"): "UnionSizes",
    ("dgc_topo.simulate", "simulate"): "simulate_schedule",
    ("dgc_topo.verify", "Verification"): "Proof",
    ("dgc_topo.verify", "verify"): "prove",
}


class OldModules(MetaPathFinder, Loader):
    """Finder and loader of modules that are called otherwise now (PEP 451)."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the specification of an old module; None of any other."""
        del path, target
        return ModuleSpec(name, self, is_package=True) if _root_of(name) else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the making of the module to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Have the module look for its names where they are now."""
        name = module.__name__
        root = _root_of(name)
        homes = [new + name.removeprefix(root) for new in _MOVED[root]]
        found = [home for home in map(_module, homes) if home is not None]
        if not found:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        news = " and ".join(home.__name__ for home in found)
        warnings.warn(
            f"{name} is {news} now; the old name goes with the next release",
            FutureWarning,
            stacklevel=2,
        )
        module.__dict__["__getattr__"] = lambda wanted: _name(name, found, wanted)


def _root_of(name: str) -> str:
    """Return the entry of `_MOVED` that covers a module's name; empty if there is none."""
    return next((old for old in _MOVED if name == old or name.startswith(f"{old}.")), "")


def _module(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            return None
        raise


def _name(old: str, homes: list[ModuleType], wanted: str) -> Any:
    new = _RENAMED.get((old, wanted), wanted)
    for home in homes:
        if hasattr(home, new):
            return getattr(home, new)
    raise AttributeError(f"module {old!r} has no attribute {wanted!r}")


def install() -> None:
    """Offer the old modules after all others."""
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.append(OldModules())
