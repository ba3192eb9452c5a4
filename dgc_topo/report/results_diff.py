"""ResultsDiff of two results: the numbers of the same runs, and the settings."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dgc_topo.records.configuration import Configuration, by_configuration
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.measurement import Measurement
from dgc_topo.report.comparison import MISSING, spread_text
from dgc_topo.text import one_line
from dgc_topo.units import bytes_text, seconds_text, times_text

if TYPE_CHECKING:
    import pandas as pd

_SAME = 1e-9  #: relative difference below which two numbers are one: they were printed and read
#: Ratios between these are said in percent, all others as factors.
_PERCENT_FROM, _PERCENT_TO = 0.505, 1.995
_UNKNOWN = "unknown"


class _Quantity(NamedTuple):
    """Number of a record, and its text."""

    name: str
    unit: str
    value: Callable[[Measurement], float | None]
    text: Callable[[float], str]


_QUANTITIES = (
    _Quantity("step time", "s", lambda record: record.step_time_s, seconds_text),
    _Quantity("speed-up", "", lambda record: record.speedup, times_text),
    _Quantity(
        "wire bytes per step", "bytes", lambda record: record.wire_bytes_per_step, bytes_text
    ),
    _Quantity(
        "final quality", "", lambda r: r.quality.final if r.quality else None, lambda v: f"{v:.4g}"
    ),
)


class _Run(NamedTuple):
    """Key of records that differ in nothing but their seed."""

    rung: str
    configuration: Configuration
    kind: str
    network: str
    world_size: int

    @property
    def name(self) -> str:
        """Topology and compression, after the rung of a ladder."""
        return f"{self.rung}: {self.configuration.label}" if self.rung else self.configuration.label

    @property
    def place(self) -> str:
        """Kind, network and size."""
        ranks = "1 rank" if self.world_size == 1 else f"{self.world_size} ranks"
        return f"{self.kind} {self.network}, {ranks}"

    @property
    def label(self) -> str:
        """Name and place in one line."""
        return f"{self.name}; {self.place}"


@dataclass(frozen=True, slots=True)
class NumberChange:
    """A number of a run, or of a prediction, in both results.

    Attributes:
        run: Topology and compression.
        place: Kind of the records, network and number of ranks.
        quantity: Name of the number.
        unit: Its unit; "" for a plain number.
        before: Values in the first results, one per seed.
        after: Values in the second.
        before_text: Their mean as people read it, with its standard deviation if there are several.
        after_text: The same of the second.
    """

    run: str
    place: str
    quantity: str
    unit: str
    before: tuple[float, ...]
    after: tuple[float, ...]
    before_text: str
    after_text: str

    @property
    def ratio(self) -> float | None:
        """Mean of the second over that of the first; None if that is 0."""
        return fmean(self.after) / fmean(self.before) if fmean(self.before) else None

    @property
    def is_same(self) -> bool:
        """True if the means are equal, but for the last digits."""
        return isclose(fmean(self.before), fmean(self.after), rel_tol=_SAME)

    @property
    def ratio_text(self) -> str:
        """The change in percent, or as a factor where it is large."""
        if self.is_same:
            return "same"
        if self.ratio is None or self.ratio <= 0:
            return MISSING
        if not _PERCENT_FROM < self.ratio < _PERCENT_TO:
            return times_text(self.ratio)
        return f"{100 * (self.ratio - 1):+.2g} %"


@dataclass(frozen=True, slots=True)
class ResultsDiff:
    """Two results side by side.

    Attributes:
        before: Path of the first.
        after: Path of the second.
        changes: Every number that both have, also those that did not change.
        only_before: Runs and predictions that only the first has.
        only_after: Those that only the second has.
        settings: Keys of scenarios and of machines that differ, with both values.
    """

    before: str
    after: str
    changes: tuple[NumberChange, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    settings: tuple[tuple[str, str, str], ...]

    def __repr__(self) -> str:
        """Return both paths and counts."""
        return f"ResultsDiff({self.before!r} -> {self.after!r}: {self.summary})"

    @property
    def changed(self) -> tuple[NumberChange, ...]:
        """Numbers that are not the same in both."""
        return tuple(change for change in self.changes if not change.is_same)

    @property
    def summary(self) -> str:
        """Counts in one sentence."""
        parts = [f"{len(self.changed)} of {len(self.changes)} common numbers changed"]
        for runs, which in ((self.only_before, "first"), (self.only_after, "second")):
            if runs:
                parts.append(f"{len(runs)} runs are only in the {which}")
        return ", ".join(parts)

    def rows(self, *, every: bool = False) -> list[tuple[str, str, str, str, str, str]]:
        """Return rows of text: run, place, quantity, before, after, change.

        Args:
            every: Include numbers that did not change.
        """
        return [
            (
                each.run,
                each.place,
                each.quantity,
                each.before_text,
                each.after_text,
                each.ratio_text,
            )
            for each in (self.changes if every else self.changed)
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per number that both have: run, place, quantity, unit, means, ratio."""
        import pandas as pd  # noqa: PLC0415  # takes half a second

        columns = ("run", "place", "quantity", "unit", "before", "after", "ratio")
        rows = [
            (c.run, c.place, c.quantity, c.unit, fmean(c.before), fmean(c.after), c.ratio)
            for c in self.changes
        ]
        return pd.DataFrame(rows, columns=list(columns))

    def _repr_html_(self) -> str:
        """Return the tables of what changed."""
        numbers = _html_table(("run", "place", "number", "before", "after", "change"), self.rows())
        settings = _html_table(("setting", "before", "after"), self.settings)
        return f"<p>{escape(self.summary)}</p>{numbers}{settings if self.settings else ''}"


class Recorded(Protocol):
    """Records, and the folder or file that they came from, such as `Results`."""

    @property
    def path(self) -> Path:
        """Folder, or file of records."""

    @property
    def records(self) -> Sequence[Measurement]:
        """All records."""


def diff_results(before: Recorded, after: Recorded) -> ResultsDiff:
    """Compare two results: numbers of the same runs and predictions, and settings.

    Runs are the same if they agree in topology, compression, averaging, rung, network and number of
    ranks; records that differ only in seeds are averaged.
    """
    first, second = _runs_of(before.records), _runs_of(after.records)
    return ResultsDiff(
        str(before.path),
        str(after.path),
        tuple(
            change
            for run in first
            if run in second
            for change in _changes(run, first[run], second[run])
        ),
        tuple(run.label for run in first if run not in second),
        tuple(run.label for run in second if run not in first),
        tuple(_different_settings(before.path, after.path)),
    )


def _runs_of(records: Sequence[Measurement]) -> dict[_Run, list[Measurement]]:
    """Return the records of each run; each rung of a ladder counts its own repetitions."""
    runs: dict[_Run, list[Measurement]] = {}
    for rung in dict.fromkeys(record.rung or "" for record in records):
        alike = [record for record in records if (record.rung or "") == rung]
        for configuration, group in by_configuration(alike).items():
            for record in group:
                network = f"on {record.network}" if record.kind == "predicted" else "here"
                key = _Run(rung, configuration, record.kind, network, record.world_size)
                runs.setdefault(key, []).append(record)
    return runs


def _changes(
    run: _Run, before: Sequence[Measurement], after: Sequence[Measurement]
) -> Iterator[NumberChange]:
    virtual = any(record.workers == "virtual" for record in (*before, *after))
    for quantity in _QUANTITIES:
        if virtual and quantity.name == "step time":
            continue  # of workers that took turns: no measure of anything
        old, new = _known(quantity, before), _known(quantity, after)
        if old and new:
            yield NumberChange(
                run=run.name,
                place=run.place,
                quantity=quantity.name,
                unit=quantity.unit,
                before=old,
                after=new,
                before_text=spread_text(old, quantity.text),
                after_text=spread_text(new, quantity.text),
            )


def _known(quantity: _Quantity, records: Sequence[Measurement]) -> tuple[float, ...]:
    """Return the values of a quantity in the records that have it."""
    return tuple(value for each in records if (value := quantity.value(each)) is not None)


def _different_settings(before: Path, after: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the keys of the two scenarios and machines that differ, with both texts."""
    first, second = _settings(before), _settings(after)
    for key in dict.fromkeys((*first, *second)):
        texts = first.get(key, MISSING), second.get(key, MISSING)
        if texts[0] != texts[1]:
            yield key, *texts


def _settings(path: Path) -> dict[str, str]:
    """Return the settings of a results folder by key; of a lone file of records there are none."""
    if not path.is_dir():
        return {}
    folder = ResultsFolder(path)
    found = dict(_flat(_scenario(folder.known_scenario_text())))
    environment = folder.known_origin().environment
    if environment is not None:
        found |= _flat(environment.model_dump(mode="json"), "machine")
    return found


def _scenario(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {"scenario": _UNKNOWN}


def _flat(table: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str]]:
    """Yield every value of nested tables, by its dotted key."""
    for key, value in table.items():
        name = f"{at}.{key}" if at else key
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            for index, each in enumerate(value):
                yield from _flat(each, f"{name}[{each.get('name', index)}]")
        else:
            yield name, one_line(str(value))


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(one_line(c))}</{tag}>' for c in cells)}</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead>\n<tbody>{body}</tbody></table>"
