"""``dgc-topo lab``: an emulated cluster on this machine."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from dgc_topo.cli.console import HELP_MARKUP, clear_errors, console, print_json, print_raw
from dgc_topo.cli.options import AsJson
from dgc_topo.units import link_rate_from, seconds_from
from dgc_topo.workers.lab import Diagnosis, Lab, LabSpec, examine
from dgc_topo.workers.lab.command import run_command

_DEFAULT = LabSpec(num_hosts=1)
_YES, _NO = Text("yes", "green"), Text("NO", "red")

lab = typer.Typer(
    help="An emulated cluster on this machine: hosts with links of a given rate.",
    rich_markup_mode=HELP_MARKUP,
)


@lab.command()
def doctor(as_json: AsJson = False) -> None:
    """Report what a lab needs and what this machine lacks; exit status 0 if a lab can run."""
    with clear_errors():
        diagnosis = examine()
        if as_json:
            print_json(diagnosis.to_json(), indent=2)
        else:
            _print(diagnosis)
    raise typer.Exit(0 if diagnosis.usable else 1)


def _print(diagnosis: Diagnosis) -> None:
    table = Table("", "what", "found", box=None)
    for finding in diagnosis.findings:
        mark = _YES if finding.usable else _NO if finding.needed else "no"
        table.add_row(mark, finding.name, finding.detail)
    console.print(table)
    verdict = "can" if diagnosis.usable else "can NOT"
    console.print(f"this machine {verdict} have a lab")


@lab.command(context_settings={"ignore_unknown_options": True})
def run(
    command: Annotated[list[str], typer.Argument(help="program and arguments, after --")],
    hosts: Annotated[int, typer.Option(help="number of hosts")],
    rate: Annotated[str, typer.Option(help="of every link, or unshaped")] = "unshaped",
    ranks_per_host: Annotated[int, typer.Option(help="processes on each host")] = 1,
    queue: Annotated[str, typer.Option(help="that a full queue takes to drain")] = "20 ms",
    congestion_control: Annotated[
        str | None, typer.Option(help="of TCP between hosts")
    ] = _DEFAULT.congestion_control,
) -> None:
    """Run a command on every host, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set.

    When a process fails, the others are ended, and its exit status is the command's.
    """
    with clear_errors():
        spec = LabSpec(
            num_hosts=hosts,
            rate_bits_per_s=link_rate_from(rate, "--rate"),
            queue_s=seconds_from(queue, "--queue"),
            congestion_control=congestion_control,
            ranks_per_host=ranks_per_host,
        )
        with Lab(spec) as place:
            status = run_command(
                place,
                command,
                lambda rank, line: print_raw(f"[rank {rank}] {line}\n"),
            )
    raise typer.Exit(status)
