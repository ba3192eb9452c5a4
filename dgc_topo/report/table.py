"""The comparison table for terminals, Markdown and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from textwrap import fill, wrap

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from dgc_topo.report.comparison import Cell, Comparison, Heading
from dgc_topo.text import markdown, one_line, printable

_STYLES = {"": "bold", "measured": "bold green", "predicted": "bold magenta"}
_WIDE = 10_000  # columns; wider than any table
_HEADING_WIDTH = 9  # columns; headings of several words may be wrapped, cells never
_NAME_WIDTH = 20  # columns; smallest width of the topology
_GAP = 2  # columns between two columns


def rich_table(comparison: Comparison, width: int | None = None) -> Table | Group:
    """Return the table for a terminal.

    Args:
        comparison: From `dgc_topo.report.comparison.compare`.
        width: Columns of the terminal.  A table that does not fit is split into several: one for
            measurements and one per predicted network.  Cells are never broken.
    """
    names = [i for i, heading in enumerate(comparison.headings) if not heading.group]
    values = [i for i, heading in enumerate(comparison.headings) if heading.group]
    whole = _fit(comparison, [*names, *values], width)
    if width is None or _width(whole) <= width:
        return whole
    groups: dict[str, list[int]] = {}
    for index in values:
        groups.setdefault(comparison.headings[index].group, []).append(index)
    parts = []
    for group, columns in groups.items():
        part = _fit(comparison, [*names, *columns], width, grouped=False)
        part.title, part.title_justify = Text(one_line(group), _STYLES[group.split()[0]]), "left"
        parts.append(part)
    return Group(*parts)


def markdown_table(comparison: Comparison) -> str:
    """Return the table as GitHub-flavoured Markdown; the best of a column is bold."""
    lines = [
        [markdown(_heading_text(heading)) for heading in comparison.headings],
        [":---" if not heading.group else "---:" for heading in comparison.headings],
    ]
    lines += [[_markdown_cell(cell) for cell in row] for row in comparison.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def html_table(comparison: Comparison) -> str:
    """Return the table as HTML; the best of a column is bold."""
    headings = "".join(
        f'<th title="{_html(heading.meaning)}">{_html(_heading_text(heading))}</th>'
        for heading in comparison.headings
    )
    rows = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>\n" for row in comparison.rows)
    return f"<table><thead><tr>{headings}</tr></thead>\n<tbody>{rows}</tbody></table>"


def _html(text: str) -> str:
    return escape(one_line(text))


def _html_cell(cell: Cell) -> str:
    text = _html(cell.text)
    return f"<td><b>{text}</b></td>" if cell.best else f"<td>{text}</td>"


def _fit(
    comparison: Comparison, columns: Sequence[int], width: int | None, *, grouped: bool = True
) -> Table:
    """Return a table with the first column wrapped to the width that the others leave."""
    if width is None:
        return _table(comparison, columns, grouped=grouped)
    rest = _width(_table(comparison, columns[1:], grouped=grouped)) + _GAP
    return _table(comparison, columns, max(_NAME_WIDTH, width - rest), grouped=grouped)


def _table(
    comparison: Comparison,
    columns: Sequence[int],
    first_width: int = _WIDE,
    *,
    grouped: bool = True,
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    for index in columns:
        heading = comparison.headings[index]
        table.add_column(
            _rich_heading(heading, grouped=grouped),
            justify="right" if heading.group else "left",
            no_wrap=True,
            vertical="bottom",
        )
    # A topology is named once for all its densities; a long name is wrapped over their rows.
    for name, group in groupby(comparison.rows, key=lambda row: row[columns[0]].text):
        rows = list(group)
        lines = wrap(one_line(name), first_width)
        for row in rows[:-1]:
            table.add_row(lines.pop(0) if lines else "", *_texts(row, columns[1:]))
        table.add_row("\n".join(lines), *_texts(rows[-1], columns[1:]))
    return table


def _texts(row: Sequence[Cell], columns: Sequence[int]) -> list[Text]:
    return [Text(one_line(row[index].text), "bold" if row[index].best else "") for index in columns]


def _rich_heading(heading: Heading, *, grouped: bool) -> Text:
    group, _, network = heading.group.partition(" ")
    text = Text("\n".join((group, one_line(network)) if network else (group,)), _STYLES[group])
    folded = fill(
        printable(heading.name), _HEADING_WIDTH, break_long_words=False, break_on_hyphens=False
    )
    name = Text(folded, "bold")
    lines = [text, name] if grouped and group else [name]
    if heading.detail:
        lines.append(Text(printable(heading.detail), "dim"))
    return Text("\n").join(lines)


def _width(table: Table) -> int:
    return Console(width=_WIDE).measure(table).maximum


def _heading_text(heading: Heading) -> str:
    name = f"{heading.group}: {heading.name}" if heading.group else heading.name
    return f"{name} ({heading.detail})" if heading.detail else name


def _markdown_cell(cell: Cell) -> str:
    text = markdown(cell.text)
    return f"**{text}**" if cell.best else text
