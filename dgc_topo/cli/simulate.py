"""Simulating a scenario file, or one topology once on one network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from dgc_topo.cli.console import clear_errors, console, topology_from

if TYPE_CHECKING:
    from dgc_topo.scenario.networks import BuiltNetwork

Value = TypeVar("Value")

Target = Annotated[
    str, typer.Argument(help="scenario file (.toml), topology name, or path of a .py file")
]
WorldSize = Annotated[int | None, typer.Option("--world-size", "-n", help="number of ranks")]
Size = Annotated[
    str | None, typer.Option("--bytes", help="size of the dense buffer, such as 100MiB")
]
NetworkName = Annotated[
    str,
    typer.Option(help="see 'dgc-topo networks', or FILE.toml:NAME of a scenario"),
]
Bandwidth = Annotated[
    str | None, typer.Option(help="of a link of --network ideal, such as 125MB/s or 1Gbit/s")
]
Latency = Annotated[
    str | None,
    typer.Option(help="of a link of --network ideal (host to host is two), such as 50us"),
]
Options = Annotated[
    list[str] | None, typer.Option("--option", help="topology option, key=value; repeatable")
]
Density = Annotated[
    float | None, typer.Option(help="fraction of the fp32 elements sent, with indices")
]
OverlapExponent = Annotated[
    float | None,
    typer.Option(help="c ranks' entries merge into c**exponent times one's; else independent"),
]
Seed = Annotated[int, typer.Option(help="for topologies that draw at random")]
Goal = Annotated[
    Path | None, typer.Option(help="also write the schedule as GOAL text into this file")
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="scenario: results folder (default: results/NAME)"),
]


def simulate(  # noqa: PLR0913  # each argument is an option on the command line
    context: typer.Context,
    target: Target,
    *,
    world_size: WorldSize = None,
    size: Size = None,
    network: NetworkName = "1gbe",
    bandwidth: Bandwidth = None,
    latency: Latency = None,
    option: Options = None,
    density: Density = None,
    overlap_exponent: OverlapExponent = None,
    seed: Seed = 0,
    goal: Goal = None,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Predict a scenario's workloads without training, or run one topology once on one network."""
    with clear_errors():
        if target.endswith(".toml"):
            why = f"is for a topology; {target} is a scenario, which says it itself"
            _refuse(context, lambda name: name not in {"target", "output"}, why)
            _simulate_scenario(Path(target), output)
            return
        from dgc_topo.cli.one_run import Case, run_case
        from dgc_topo.units import bytes_from

        why = f"is for a scenario file; {target!r} is a topology"
        _refuse(context, lambda name: name == "output", why)
        topology = topology_from(target, option or [])
        num_ranks = _needed(world_size, "--world-size", "a number of ranks")
        num_bytes = bytes_from(_needed(size, "--bytes", "a size such as 100MiB"), "--bytes")
        topology.schedule(num_ranks)  # refuse what it cannot run before anything else
        built = _network(network, num_ranks, bandwidth, latency)
        coding = density, overlap_exponent, seed
        case = Case(topology, num_ranks, num_bytes, network, built, *coding)
        run_case(case, goal, as_json=as_json)


def _simulate_scenario(path: Path, output: Path | None) -> None:
    from dgc_topo.cli.progress import ProgressBars
    from dgc_topo.cli.show import print_findings
    from dgc_topo.experiment import run_scenario

    with ProgressBars(console) as bars:
        folder = run_scenario(path, output, bars, train=False)
    print_findings(folder)


def _network(
    name: str, world_size: int, bandwidth: str | None, latency: str | None
) -> BuiltNetwork:
    """Return a fabric's star, or a network that a scenario file describes (FILE.toml:NAME)."""
    from dgc_topo.scenario import load_scenario
    from dgc_topo.scenario.networks import BuiltNetwork, build_network
    from dgc_topo.simulate import known_fabrics, load_fabric
    from dgc_topo.units import rate_from, seconds_from

    if name == "ideal":
        rate = _needed(bandwidth, "--bandwidth", "one such as 125MB/s for --network ideal")
        fabric = load_fabric(
            name,
            bandwidth_bytes_per_s=rate_from(rate, "--bandwidth"),
            link_latency_s=0.0 if latency is None else seconds_from(latency, "--latency"),
        )
        return BuiltNetwork(fabric.star(world_size), None, None, ())
    for option, value in (("--bandwidth", bandwidth), ("--latency", latency)):
        if value is not None:
            raise ValueError(
                f"{option}: is fixed for --network {name}, expected --network ideal to set it"
            )
    if name in known_fabrics():
        return BuiltNetwork(load_fabric(name).star(world_size), None, None, ())
    file, separator, own = name.rpartition(":")
    if not separator or not file.endswith(".toml"):
        raise ValueError(
            f"--network {name!r}: unknown, expected one of {', '.join(known_fabrics())}, or "
            "FILE.toml:NAME for one that a scenario file describes"
        )
    return build_network(own, load_scenario(Path(file)), world_size)


def _refuse(context: typer.Context, refused: Callable[[str], bool], why: str) -> None:
    """Refuse options that are given on the command line though they mean nothing there."""
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if refused(name) and source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"{max(parameter.opts, key=len)}: {why}")


def _needed(value: Value | None, name: str, expected: str) -> Value:
    if value is None:
        raise ValueError(f"{name}: missing, expected {expected}")
    return value
