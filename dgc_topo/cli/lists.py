"""Commands that list things: topologies, networks, scenarios, schemas, this machine."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table

from dgc_topo.cli.console import clear_errors, console, print_json
from dgc_topo.cli.options import AsJson


def _table(*headings: str, lines: bool = True) -> Table:
    """Return a table whose first column, a name to type, is never cut off."""
    table = Table(*headings, show_lines=lines)
    table.columns[0].no_wrap = True
    return table


def topologies() -> None:
    """List the installed topologies and their options."""
    with clear_errors():
        _print_topologies()


def _print_topologies() -> None:
    from dgc_topo.plugins import TopologyError, known_topologies
    from dgc_topo.topology import load_topology, option_choices

    table = _table("topology", "what it is", "options")
    for name in known_topologies():
        try:
            topology = load_topology(name)
        except TopologyError as error:  # one broken package hides no other
            table.add_row(name, str(error), "")
            continue
        choices = option_choices(topology.builder)
        options = "\n".join(f"{key}: {text}" for key, text in choices.items())
        table.add_row(name, topology.summary, options)
    console.print(table)


def networks() -> None:
    """List the named networks with their numbers and the sources of these numbers."""
    with clear_errors():
        _print_networks()


def _print_networks() -> None:
    from dgc_topo.network import known_fabrics, load_fabric

    table = _table("network", "Gbit/s", "latency (us)", "source", lines=False)
    for name in known_fabrics():
        if name == "ideal":
            table.add_row(name, "any", "any", "given numbers and nothing else")
            continue
        fabric = load_fabric(name)
        bandwidth, latency = 8e-9 * fabric.bandwidth_bytes_per_s, fabric.latency_s * 1e6
        table.add_row(name, f"{bandwidth:,.5g}", f"{latency:g}", fabric.source)
    console.print(table)


def scenarios() -> None:
    """List the scenarios that come with the package, and the command that each is for."""
    from dgc_topo.experiments.shipped import shipped_scenarios

    with clear_errors():
        table = _table("scenario", "what it is", "command")
        for each in shipped_scenarios():
            table.add_row(each.name, each.description, f"dgc-topo {each.command} {each.name}")
        console.print(table)


def env(as_json: AsJson = False) -> None:
    """Print versions, hardware, interfaces and launcher variables: paste it into a report."""
    from dgc_topo.records.environment import describe_installation

    with clear_errors():
        facts = describe_installation()
        if as_json:
            print_json(facts, indent=2)
            return
        width = max(map(len, facts))
        for name, value in facts.items():
            first, *others = _lines_of(value)
            console.print(f"{name:<{width}}  {first}", soft_wrap=True)
            for line in others:
                console.print(f"{'':<{width}}  {line}", soft_wrap=True)


def _lines_of(value: object) -> list[str]:
    if isinstance(value, dict):
        return [f"{key} {inner}" for key, inner in value.items()] or ["none"]
    if isinstance(value, list):
        return [str(inner) for inner in value] or ["none"]
    return ["unknown" if value is None else str(value)]


class SchemaOf(StrEnum):
    """Files that have a schema."""

    SCENARIO = "scenario"
    NETWORK = "network"
    MEASUREMENT = "measurement"


def schema(
    of: Annotated[
        SchemaOf, typer.Argument(help="scenario files, network files, or records")
    ] = SchemaOf.SCENARIO,
) -> None:
    """Print the JSON schema of scenario files, network files, or the records in results folders."""
    from pydantic import TypeAdapter

    from dgc_topo.experiments.scenario import Scenario
    from dgc_topo.network.kinds import NetworkChoice
    from dgc_topo.records.measurement import Measurement

    models: dict[str, Any] = {
        "scenario": Scenario,
        "network": NetworkChoice,
        "measurement": Measurement,
    }
    with clear_errors():
        print_json(TypeAdapter(models[of.value]).json_schema(), indent=2)
