"""HTML pages: one file that contains everything it shows, from templates with one frame."""

from __future__ import annotations

import base64
import io
import shlex
from importlib import metadata, resources
from pathlib import Path

import matplotlib as mpl
from jinja2 import Environment, FunctionLoader, StrictUndefined
from matplotlib.figure import Figure

from dgc_topo.records.origin import Origin
from dgc_topo.report.style import unknown_glyphs_as_boxes
from dgc_topo.text import printable


def render(template: str, **context: object) -> str:
    """Return the page that a template of this package gives.

    Args:
        template: Name of the file.
        context: Its variables.
    """
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_shown,
    )
    return environment.get_template(template).render(
        version=metadata.version("dgc-topo"), **context
    )


def svg_source(figure: Figure) -> str:
    """Return a figure as a data URI."""
    file = io.BytesIO()
    # A fixed salt and no date, so that the same records give the same report.
    with mpl.rc_context({"svg.hashsalt": "dgc-topo"}), unknown_glyphs_as_boxes():
        figure.savefig(file, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()


def again_command(folder: Path, origin: Origin) -> str:
    """Return the command that runs a folder's scenario again, from inside the folder."""
    return shlex.join([*origin.command, "-o", f"../{folder.resolve().name}-again"])


def findings_by_kind(lines: list[str]) -> list[tuple[str, str]]:
    """Return findings with the word that they begin with, which decides their colour."""
    return [(line.split()[0].lower().rstrip(":"), line) for line in lines]


def _template(name: str) -> str:
    return resources.files("dgc_topo.report").joinpath(name).read_text(encoding="utf-8")


def _shown(value: object) -> object:
    """Return a value for a template, without characters that reverse or hide other text."""
    if hasattr(value, "__html__"):  # by a macro, whose values came through here
        return value
    return printable(value) if isinstance(value, str) else value
