"""Links between files of the repository, as links between pages of the site."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from tools.docs.markdown import outside_code

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)#\s]+)(#[^)\s]*)?(?=\))")
_LANGUAGES = {".py": "python", ".toml": "toml", ".md": "markdown", ".jsonl": "json"}
_MOST_BYTES = 200_000


class Links:
    """The pages of the site, and the sources that they link to, which become pages too.

    Args:
        root: Folder of the repository.
        places: Place on the site of each page, by its path in the repository.
    """

    def __init__(self, root: Path, places: Mapping[str, str]) -> None:
        self._root, self._places = root, dict(places)
        self._sources: dict[str, str] = {}

    def moved(self, text: str, source: str, place: str, made: Collection[str] = ()) -> str:
        """Return a page's text with its links as they have to be at its place.

        Args:
            text: Markdown.
            source: Path of the page in the repository.
            place: Path of the page on the site.
            made: Files that are made beside the page; links to them stay.

        Raises:
            ValueError: if a link leads nowhere.
        """

        def target(found: re.Match[str]) -> str:
            if found[1] in made:
                return found[0]
            path = os.path.normpath(Path(source).parent / found[1])
            there = os.path.relpath(self._place(path, source), Path(place).parent)
            return there + (found[2] or "")

        return outside_code(text, lambda line: _LINK.sub(target, line))

    def sources(self) -> dict[str, str]:
        """Return the text of the page of each source that some page links to, by its place."""
        return {place: self._shown(path) for path, place in self._sources.items()}

    def _place(self, path: str, source: str) -> str:
        if path in self._places:
            return self._places[path]
        if f"{path}/README.md" in self._places:
            return self._places[f"{path}/README.md"]
        if not (self._root / path).exists():
            raise ValueError(f"{source}: a link leads to {path}, expected a file")
        return self._sources.setdefault(path, f"source/{path}.md")

    def _shown(self, path: str) -> str:
        file = self._root / path
        if file.is_dir():
            names = sorted(each.name for each in file.iterdir() if each.name[0] not in "._")
            return f"# {path}\n\n" + "".join(f"- `{name}`\n" for name in names)
        text = file.read_bytes()[:_MOST_BYTES].decode(errors="replace")
        return f"# {path}\n\n````{_LANGUAGES.get(file.suffix, '')}\n{text}\n````\n"
