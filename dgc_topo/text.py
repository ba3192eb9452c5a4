"""Text from others (names, paths, messages), escaped so that it is shown as written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

# What a terminal obeys instead of showing it: control characters (ESC begins colours and worse),
# marks that turn the direction of what follows, and halves of characters (undecodable bytes).
_OBEYED = (
    "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f"
    "\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069"
    "\\ud800-\\udfff"
)
_UNFIT = re.compile(f"[{_OBEYED}]")
_UNFIT_OR_BREAK = re.compile(f"[{_OBEYED}\\t\\n]")

# A backslash keeps these from meaning something in Markdown; "_" does only beside a word.
_MARKDOWN = re.compile(r"[\\`*\[\]<>~|&]|(?<!\w)_|_(?!\w)")


def printable(text: str) -> str:
    """Return *text* with an escape for every character that a terminal would obey."""
    return _UNFIT.sub(_escaped, text)


def one_line(text: str) -> str:
    """Return *text* as `printable`, its line breaks and tabs as escapes as well."""
    return _UNFIT_OR_BREAK.sub(_escaped, text)


def markdown(text: str) -> str:
    """Return Markdown that shows *text*, and fits into a cell of a table."""
    return _MARKDOWN.sub(r"\\\g<0>", one_line(text))


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table of cells that are shown as written."""

    def line(kind: str, cells: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', head)}</thead><tbody>{body}</tbody></table>"


def html_facts(caption: str, facts: Mapping[str, str]) -> str:
    """Return an HTML table with a heading and a text per row."""
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
    return f"<table><caption>{escape(caption)}</caption>{rows}</table>"


def name_of(error: BaseException) -> str:
    """Return an exception in one line, as the last line of a traceback names it."""
    said = one_line(str(error))
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
