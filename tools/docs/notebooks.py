"""Notebooks as pages: their cells, and the outputs that are saved in them."""

from __future__ import annotations

from pathlib import Path

import nbformat
from traitlets.config import Config

#: Kinds of output, the best first: the page has a style of its own, so Markdown goes before HTML.
_KINDS = ["text/markdown", "image/png", "image/svg+xml", "text/html", "text/plain"]


def page(file: Path, stem: str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook's page in Markdown, and its pictures by name.

    Args:
        file: The notebook.
        stem: Beginning of the names of its pictures.
    """
    from nbconvert import MarkdownExporter  # noqa: PLC0415 - of the extra "docs"

    settings = Config({"NbConvertBase": {"display_data_priority": _KINDS}})
    exporter = MarkdownExporter(config=settings)
    notebook = nbformat.read(file, as_version=4)
    text, resources = exporter.from_notebook_node(
        notebook, {"output_files_dir": f"{stem}_files", "unique_key": stem}
    )
    note = f"*A notebook: `notebooks/{file.name}`. The tests execute it.*"
    title, _, rest = text.strip().partition("\n")
    return f"{title}\n\n{note}\n{rest}\n", dict(resources["outputs"])
