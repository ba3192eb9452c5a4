"""Markdown as GitHub reads it, made fit for Python-Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_FENCE = re.compile(r" *(```|~~~)")
_ITEM = re.compile(r" *([-*+]|\d+\.) ")
_TABLE = re.compile(r"\|")


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return a text with its lines changed, but for those of code blocks."""
    inside = False
    lines = []
    for line in text.split("\n"):
        is_fence = _FENCE.match(line) is not None
        lines.append(line if inside or is_fence else change(line))
        inside ^= is_fence
    return "\n".join(lines)


def for_python_markdown(text: str) -> str:
    """Return a text with an empty line before every list, table and code block of a paragraph.

    Lists inside lists are indented by four.
    """
    return "\n".join(_separated(text.split("\n")))


def _separated(lines: list[str]) -> Iterator[str]:
    inside, last = False, ""
    for line in lines:
        kind = _kind(line)
        if not inside and kind in {"item", "table", "fence"} and _continues(last, kind):
            yield ""
        if kind == "fence":
            inside = not inside
        if not inside and kind == "item" and line.startswith("  ") and not line.startswith("    "):
            line = "  " + line  # noqa: PLW2901
        yield line
        last = line


def _kind(line: str) -> str:
    kinds = {"fence": _FENCE, "item": _ITEM, "table": _TABLE}
    return next((name for name, pattern in kinds.items() if pattern.match(line)), "text")


def _continues(last: str, kind: str) -> bool:
    """Return True if a line of this kind, after the last one, needs an empty line before it."""
    if not last.strip() or _kind(last) == kind:
        return False
    return not (kind == "item" and last.startswith(" "))  # goes on with an item's text
