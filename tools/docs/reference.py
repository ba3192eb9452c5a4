"""Reference pages: the names of the front door, and the command line."""

from __future__ import annotations

import re

import typer
from typer.cli import get_docs_for_click

import dgc_topo as dt
from dgc_topo.cli.main import app

#: Functions whose examples show what has none of its own.
MADE_BY = {
    "Advice": "advise",
    "Averaging": "load_averaging",
    "Cluster": "load_cluster",
    "Measurement": "load_results",
    "Proof": "prove",
    "Results": "load_results",
    "Scenario": "load_scenario",
    "Simulation": "simulate",
    "StepSimulation": "simulate_step",
    "Topology": "load_topology",
    "Workload": "load_workload",
}
_OPTIONS = """    options:
      heading_level: 2
      show_root_heading: true
      show_root_full_path: false
"""


def pages() -> dict[str, str]:
    """Return the text of each page, by its path on the site."""
    found = {f"reference/{_slug(title)}.md": _api(title, names) for title, names in groups()}
    return found | {"reference/cli.md": _cli(), "reference/index.md": _index()}


def groups() -> list[tuple[str, list[str]]]:
    """Return the groups of names in the door's table of contents.

    Raises:
        ValueError: if a public name is in none.
    """
    _, _, text = (dt.__doc__ or "").partition("\n\n")
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if entry := re.match(r" {4}((?:\w+, )*\w+) {2,}(.*)", line):
            names = [*entry[1].split(", "), *re.findall(r"\b[A-Z]\w+", entry[2])]
            known = [name for name in dt.__all__ if name in names]
            found[-1][1].extend(known)
        elif line and not line.startswith(" ") and not line.endswith("."):
            found.append((line.partition(":")[0], []))
    found = [(title, list(dict.fromkeys(names))) for title, names in found if names]
    listed = {name for _, names in found for name in names}
    if missing := set(dt.__all__) - listed:
        raise ValueError(f"table of contents: without {sorted(missing)}, expected all names")
    return found


def _api(title: str, names: list[str]) -> str:
    head = [f"# {title}\n", "`import dgc_topo as dt` is all that these need.\n"]
    entries = [f"::: {dt._HOMES[name]}.{name}\n{_OPTIONS}{_made_by(name)}" for name in names]  # noqa: SLF001
    return "\n".join(head + entries)


def _made_by(name: str) -> str:
    if name not in MADE_BY:
        return ""
    maker = MADE_BY[name]
    page = next(_slug(title) for title, names in groups() if maker in names)
    link = f"{page}.md#{dt._HOMES[maker]}.{maker}"  # noqa: SLF001
    return f"\n[`dt.{maker}`]({link}) returns such, and has an example.\n"


def _index() -> str:
    lines = [
        "# Names of the library\n",
        "`import dgc_topo as dt` loads each name when it is used.\n",
    ]
    for title, names in groups():
        page = f"{_slug(title)}.md"
        links = ", ".join(f"[`dt.{n}`]({page}#{dt._HOMES[n]}.{n})" for n in names)  # noqa: SLF001
        lines.append(f"- [{title}]({page}): {links}")
    return "\n".join(lines) + "\n"


def _cli() -> str:
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="dgc-topo")
    text = get_docs_for_click(obj=command, ctx=context, name="dgc-topo", title="Commands")
    return re.sub(r"\n{3,}", "\n\n", text)


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")
