"""A growing table whose oldest rows are dropped: memory follows what is in use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dgc_topo.simulation.views import view_any

#: Rows of an empty table.
SMALL = 4096


class Window:
    """Columns over consecutive ids ``base .. end - 1``; id ``i`` is at row ``i - base``.

    Args:
        first_in_use: Returns the smallest id that is still needed; called when space runs out.
        columns: Name and dtype of each column.
    """

    def __init__(
        self, first_in_use: Callable[[], int], columns: Mapping[str, type[np.generic]]
    ) -> None:
        self.base = 0
        self.end = 0
        self._first_in_use = first_in_use
        self._columns: dict[str, npt.NDArray[Any]] = {
            name: np.zeros(SMALL, dtype) for name, dtype in columns.items()
        }
        self.views = {name: view_any(column) for name, column in self._columns.items()}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._columns[name]

    def used(self, name: str) -> npt.NDArray[Any]:
        """Return the rows of a column that hold an id."""
        return self._columns[name][: self.end - self.base]

    def add_column(self, name: str, dtype: type[np.generic], value: float) -> None:
        """Add a column that holds *value* everywhere."""
        self._columns[name] = np.full(self._capacity, value, dtype)
        self.views[name] = view_any(self._columns[name])

    @property
    def _capacity(self) -> int:
        return len(next(iter(self._columns.values())))

    def extend(self, count: int) -> slice:
        """Add *count* rows with any content; return where they are."""
        if self.end - self.base + count > self._capacity:
            self._make_room(count)
        rows = slice(self.end - self.base, self.end - self.base + count)
        self.end += count
        return rows

    def _make_room(self, count: int) -> None:
        first = min(max(self._first_in_use(), self.base), self.end)
        shift, kept = first - self.base, self.end - first
        self.base = first
        if not kept and count <= self._capacity:
            return
        # Half free afterwards: the cost of copying is spread over as many rows.
        capacity = max(SMALL, 2 * (kept + count))
        for name, column in self._columns.items():
            new = np.zeros(capacity, column.dtype)
            new[:kept] = column[shift : shift + kept]
            self._columns[name] = new
        self.views = {name: view_any(column) for name, column in self._columns.items()}
