"""Carrying of compressors' state by parameter name, from one set of parameters to another.

A compressor has the state of its parameters in sections: velocities, residuals and so on, each by
parameter name.  Parameters get frozen and are trained again later, and buckets are cut anew.  What
a compressor that ends has known of a parameter waits here until another one has that parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from dgc_topo.compression.compressor import Sections

#: State of one parameter: section to tensor, shaped like the parameter.
ParameterState = dict[str, Tensor]

_TOTALS = {"sent_histogram"}  # sections that are no parameter's: those of several are added up


class Parked:
    """State that no compressor has now.

    Args:
        state: State to begin with, see `add`.

    Attributes:
        sections: All of it; no section is empty.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.sections: dict[str, dict[str, Tensor]] = {}
        self.add(state or {})

    def add(self, state: Mapping[str, Any]) -> None:
        """Park what a compressor knows, in place of what is parked of the same parameters.

        Args:
            state: Its snapshot or its sections; what is not by name is left out.
        """
        for section, tensors in sections_of(state).items():
            own = self.sections.setdefault(section, {})
            for name, tensor in tensors.items():
                add = section in _TOTALS and name in own
                own[name] = own[name] + tensor if add else tensor
        self._drop_empty()

    def take(self, places: Mapping[str, Any]) -> Sections:
        """Return what there is for the parameters of a new compressor; it is parked no longer.

        Args:
            places: Snapshot or sections of the new one; a place for which nothing is parked keeps
                what is in it.
        """
        found = {
            section: {
                name: self.sections.get(section, {}).pop(name, tensor)
                for name, tensor in tensors.items()
            }
            for section, tensors in sections_of(places).items()
        }
        self._drop_empty()
        return found

    def forget(self, *sections: str) -> None:
        """Forget what is parked in some sections."""
        for section in sections:
            self.sections.pop(section, None)

    def _drop_empty(self) -> None:
        self.sections = {section: own for section, own in self.sections.items() if own}


def sections_of(state: Mapping[str, Any]) -> Sections:
    """Return the parts of a compressor's snapshot that hold tensors by name."""
    return {key: value for key, value in state.items() if isinstance(value, Mapping)}


def by_parameter(
    sections: Sections, names: Iterable[str] | None = None
) -> dict[str, ParameterState]:
    """Return the state of parameters by their names, sharing memory.

    Args:
        sections: State by section.
        names: The parameters; None for all that have some.
    """
    own = {section: each for section, each in sections.items() if section not in _TOTALS}
    if names is None:
        names = dict.fromkeys(name for tensors in own.values() for name in tensors)
    return {
        name: {section: tensors[name] for section, tensors in own.items() if name in tensors}
        for name in names
    }


def by_section(parameters: Mapping[str, ParameterState]) -> Sections:
    """Return the sections of which `by_parameter` makes *parameters*."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, state in parameters.items():
        for section, tensor in state.items():
            found.setdefault(section, {})[name] = tensor
    return found
