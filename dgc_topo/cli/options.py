"""Options shared by several commands, and the cluster that the network options describe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from dgc_topo.units import fraction_from, rate_from, seconds_from

if TYPE_CHECKING:
    from dgc_topo.network import Cluster, Fabric
    from dgc_topo.topology import Topology

Value = TypeVar("Value")


def fraction(text: str) -> float:
    """Return the number that an option gives as ``0.001`` or ``0.1%``."""
    try:
        return fraction_from(str(text), "given")  # a default is a number already
    except ValueError as error:
        raise typer.BadParameter(str(error).removeprefix("given ")) from error


def scenario_file(text: str) -> Path:
    """Return the path of a scenario that is given by name or by path."""
    from dgc_topo.experiments.shipped import scenario_path

    try:
        return scenario_path(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def each_once(option: str, values: Iterable[Value]) -> list[Value]:
    """Return the values of a repeatable option, and refuse a value given twice.

    Raises:
        ValueError: naming the option, if one is given twice.
    """
    kept: list[Value] = []
    for value in values:
        if value in kept:
            raise ValueError(f"{option} {value}: given twice, expected each once")
        kept.append(value)
    return kept


ScenarioFile = Annotated[
    Path,
    typer.Argument(
        help="scenario: a .toml file, or a name that 'dgc-topo scenarios' lists",
        parser=scenario_file,
        metavar="SCENARIO",
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="results folder (default: results/NAME)")
]
WorldSize = Annotated[int, typer.Option("--world-size", "-n", help="number of ranks")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object")]
AsJsonRows = Annotated[bool, typer.Option("--json", help="one JSON object per row")]
MergeOption = Annotated[
    str,
    typer.Option(
        "--merge",
        help="of sparse sums: union is exact; reselect and auto send a complete chunk on with no "
        "more entries than one rank sends of it",
        metavar="union|reselect|auto",
    ),
]
BalanceOption = Annotated[
    bool,
    typer.Option("--balance", help="of exact sparse sums: two passes, places first, then values"),
]
Fraction = Annotated[
    float,
    typer.Option(
        help="fraction of the elements that is sent, such as 0.001 or 0.1%",
        parser=fraction,
        metavar="FRACTION",
    ),
]
OneDensity = Annotated[
    float | None, typer.Option(help="only this density", parser=fraction, metavar="FRACTION")
]
AveragingRule = Annotated[
    str | None,
    typer.Option(
        "--averaging",
        help="averaging rule instead of the scenario's, such as diloco:every=50",
        metavar="RULE",
    ),
]
OtherWorldSize = Annotated[
    int | None,
    typer.Option("--world-size", min=1, help="ranks, if not as many as the scenario says"),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="go on from the newest checkpoint in the results folder; begin if there is none",
    ),
]
MaxRestarts = Annotated[
    int,
    typer.Option(min=0, help="replace lost workers, and go on from the newest checkpoint"),
]
TOPOLOGY: Final = (
    "installed topology or .py file (relative to the current folder); name:key=value,key=value "
    "sets options"
)
Options = Annotated[
    list[str] | None,
    typer.Option("--option", help="another option of the topology, key=value; repeatable"),
]
Seed = Annotated[int, typer.Option(help="for topologies that draw at random", min=0, max=2**31 - 1)]
NetworkName = Annotated[
    str,
    typer.Option(help="see 'dgc-topo networks'; or a network file, or one of several in FILE:NAME"),
]
Bandwidth = Annotated[
    str | None, typer.Option(help="of a link of --network ideal, such as 125MB/s or 1Gbit/s")
]
Latency = Annotated[
    str | None,
    typer.Option(help="of a link of --network ideal (host to host is two), such as 50us"),
]


def cluster_from(name: str, num_ranks: int, bandwidth: str | None, latency: str | None) -> Cluster:
    """Return a cluster of *num_ranks* ranks on the network that --network names.

    Raises:
        ValueError: if an option is missing or has no effect on that network (the error names it),
            or the network's file is wrong.
    """
    from dgc_topo.network import load_cluster, load_fabric
    from dgc_topo.tables.keys import at_key

    source: str | Fabric = name
    if name.lower() == "ideal":
        rate = needed(bandwidth, "--bandwidth", "one such as 125MB/s for --network ideal")
        source = load_fabric(
            name,
            bandwidth_bytes_per_s=rate_from(rate, "--bandwidth"),
            link_latency_s=0.0 if latency is None else seconds_from(latency, "--latency"),
        )
    else:
        for option, value in (("--bandwidth", bandwidth), ("--latency", latency)):
            if value is not None:
                raise ValueError(
                    f"{option}: is fixed for --network {name}, expected --network ideal to set it"
                )
    with at_key("--network"):
        return load_cluster(source, num_ranks)


def check_seed(seed: int, topology: Topology, *, draws: bool = False) -> None:
    """Refuse a seed where nothing is random.

    Raises:
        ValueError: if a seed is given, but neither the topology nor the rest of the run (*draws*)
            uses one.
    """
    if seed and not topology.is_seeded and not draws:
        raise ValueError(f"--seed: nothing is drawn at random over {topology.label}, expected none")


def needed(value: Value | None, name: str, expected: str) -> Value:
    """Return the value of the option called *name*, or refuse to go on without it.

    Raises:
        ValueError: if the option is missing.
    """
    if value is None:
        raise ValueError(f"{name}: missing, expected {expected}")
    return value


def refuse_options(context: typer.Context, refused: Callable[[str], bool], why: str) -> None:
    """Refuse options that are given on the command line although they have no effect here."""
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if refused(name) and source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"{max(parameter.opts, key=len)}: {why}")


#: Options that give the arguments of a part of a scenario, for errors.
OF_A_PART: Final = {
    "density": "--density",
    "world_size": "--world-size",
    "averaging": "--averaging",
}
