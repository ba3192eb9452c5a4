"""Figures as files, with names in them as they were written."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dgc_topo.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Formats that need nothing but matplotlib.
PICTURE_SUFFIXES: Final = (".png", ".svg", ".pdf", ".eps", ".ps", ".jpg", ".jpeg", ".webp", ".tif")


def save_picture(figure: Figure, path: Path) -> None:
    """Write *figure* into exactly the file *path*, in the format that its suffix names."""
    picture = BytesIO()
    kind = path.suffix[1:].lower()
    # Without a date, the same figure is the same file.
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with unknown_glyphs_as_boxes():
        figure.savefig(picture, format=kind, bbox_inches="tight", metadata=undated)
    write_whole(path, picture.getvalue())


@contextmanager
def unknown_glyphs_as_boxes() -> Iterator[None]:
    """Draw a character that the font lacks as a box, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
