"""Gathering of all files of the site: pages, pictures, and the sources that pages link to."""

from __future__ import annotations

from pathlib import Path

from tools.docs import marks, notebooks, reference
from tools.docs.links import Links
from tools.docs.markdown import for_python_markdown

ROOT = Path(__file__).parents[2]

#: Pages outside of ``docs/`` and the folders of such pages, with their places on the site.
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "dgc_topo/wire/FORMAT.md": "wire-format.md",
    "examples/README.md": "examples.md",
    "benchmarks/results/README.md": "results/index.md",
}


def places() -> dict[str, str]:
    """Return the place on the site of every page that is a file, by its path in the repository."""
    found = {f"docs/{name}": name for name in _names(ROOT / "docs", "**/*.md")}
    found |= ELSEWHERE
    results = [name for name in _names(ROOT / "benchmarks/results", "*.md") if name != "README.md"]
    found |= {f"benchmarks/results/{name}": f"results/{name}" for name in results}
    found |= {
        f"notebooks/{name}": f"notebooks/{name.replace('.ipynb', '.md')}"
        for name in _names(ROOT / "notebooks", "*.ipynb")
    }
    return found


def gather() -> dict[str, bytes]:
    """Return the content of every file of the site, by its path there."""
    made = reference.pages()
    links = Links(ROOT, places() | {f"docs/{place}": place for place in made})
    files = {place: _written(text) for place, text in made.items()}
    for source, place in places().items():
        if source.endswith(".ipynb"):
            text, pictures = notebooks.page(ROOT / source, Path(place).stem)
        else:
            text, pictures = marks.filled((ROOT / source).read_text(encoding="utf-8"))
        folder = Path(place).parent
        files |= {(folder / name).as_posix(): content for name, content in pictures.items()}
        files[place] = _written(links.moved(text, source, place, pictures))
    for place, text in links.sources().items():
        files[place] = _written(text)
    own = [name for kind in ("svg", "css") for name in _names(ROOT / "docs", f"**/*.{kind}")]
    files |= {name: (ROOT / "docs" / name).read_bytes() for name in own}
    return files


def _written(text: str) -> bytes:
    return for_python_markdown(text).encode()


def _names(folder: Path, pattern: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern))
