"""The page of a sweep: findings, pictures and tables in one file."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from dgc_topo.records.origin import Origin
from dgc_topo.report.pages import findings_by_kind, render, svg_source
from dgc_topo.report.sweep.findings import findings
from dgc_topo.report.sweep.picture import Picture, figure_of
from dgc_topo.report.sweep.pictures import pictures_of
from dgc_topo.report.sweep.swept import Swept
from dgc_topo.report.sweep.tables import axes_table, best_table, break_even_table, skipped_table

_TEMPLATE = "sweep.html.j2"


class ShownPanel(NamedTuple):
    """A panel of a picture as an image of its own, which a phone can show.

    Attributes:
        title: Its circumstances.
        source: The image, as a data URI.
    """

    title: str
    source: str


class ShownPicture(NamedTuple):
    """A picture on the page.

    Attributes:
        title: Its title.
        text: Instructions for reading it.
        panels: Its images.
    """

    title: str
    text: str
    panels: tuple[ShownPanel, ...]


def sweep_page(
    frame: pd.DataFrame | Swept,
    name: str,
    *,
    origin: Origin | None = None,
    again: str = "",
    scenario_text: str = "",
) -> str:
    """Return the page of a sweep as HTML.

    Args:
        frame: Frame of the sweep.
        name: Its name.
        origin: Machine and time, if they are known.
        again: Command that runs it again, if it came from a scenario.
        scenario_text: Text of that scenario.

    Raises:
        ValueError: if the frame is not that of a sweep.
    """
    swept = Swept.of(frame)
    tables = [break_even_table(swept), skipped_table(swept)]
    if len(swept.rows):
        tables.insert(0, best_table(swept))
    return render(
        _TEMPLATE,
        name=name,
        origin=origin,
        again=again,
        scenario_text=scenario_text,
        machines=[],
        num_predicted=f"{len(swept.rows):,}",
        num_skipped=f"{len(swept.skipped):,}" if len(swept.skipped) else "",
        findings=findings_by_kind(findings(swept)),
        axes=axes_table(swept),
        pictures=[_shown(picture) for picture in pictures_of(swept)],
        tables=[table for table in tables if table],
    )


def _shown(picture: Picture) -> ShownPicture:
    panels = tuple(
        ShownPanel(panel.title, svg_source(figure_of(picture, [panel], titled=False)))
        for panel in picture.panels
    )
    return ShownPicture(picture.title, picture.text, panels)
