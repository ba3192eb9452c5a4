"""Pages of the documentation, and the blocks of code in them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "examples" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)


class Block(NamedTuple):
    """A block of code, and where it is."""

    page: str
    number: int
    code: str


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(language: str) -> list[Block]:
    """Return the blocks of all pages that are marked as of this language."""
    found = []
    for path in PAGES:
        page = path.relative_to(ROOT).as_posix()
        pattern = rf"^```{language}\n(.*?)^```"
        codes = re.findall(pattern, text_of(page), re.DOTALL | re.MULTILINE)
        found += [Block(page, number, code) for number, code in enumerate(codes)]
    return found
