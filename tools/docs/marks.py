"""Marks in pages, which are filled by the library when the site is built.

``<!-- topology: ring | 2 * (n - 1) * a -->`` becomes the topology's own description, with its time
as that formula, its options, what it costs and a drawing.  ``<!-- averaging: diloco -->`` does the
same for an averaging rule, and ``<!-- all topologies -->`` and ``<!-- all averagings -->`` are
tables.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

import dgc_topo as dt
from dgc_topo.averaging import Averaging
from dgc_topo.report.draw import draw_schedule, step_figure
from dgc_topo.topology import Topology
from dgc_topo.topology_options import option_choices

Pictures = dict[str, bytes]

_MARK = re.compile(r"^<!-- (all \w+|\w+: [^>]+) -->$", re.MULTILINE)
_SIZES = (4, 8, 64)
_DRAWN = 4  # ranks of a drawing


def filled(page: str) -> tuple[str, Pictures]:
    """Return a page with its marks filled, and the pictures that it now shows, by name."""
    pictures: Pictures = {}

    def fill(found: re.Match[str]) -> str:
        kind, _, given = found[1].partition(": ")
        if kind not in _FILLERS:
            return found[0]  # another program's
        name, _, formula = given.partition(" | ")
        return _FILLERS[kind](name, formula, pictures)

    return _MARK.sub(fill, page), pictures


def _topology(name: str, formula: str, pictures: Pictures) -> str:
    topology = dt.load_topology(name)
    pictures[f"{name}.svg"] = _svg(draw_schedule(topology.schedule(_DRAWN), title=" "))
    parts = [_description(topology), "## Time of a dense all-reduce"]
    if topology.gossips:
        parts[-1] = "## Time of a round"
    parts += [
        f"```python\n{formula}\n```",
        "`n` is the number of ranks, `S` the bytes of the buffer, `B` the bandwidth of a link in "
        "bytes per second, and `a` the latency of a message in seconds. It holds between equal "
        "links on one switch.",
        "## Who sends what",
        f"![{_DRAWN} ranks, steps from left to right]({name}.svg)",
        "Ranks are rows, and steps go from left to right. A square is a rank's part of the buffer: "
        "the darker it is, the more ranks have contributed. "
        f"`dgc-topo show {name} -n {_DRAWN} --plot {name}.svg` draws it.",
        "## Cost",
        _costs(topology),
    ]
    if choices := option_choices(topology.builder):
        parts += ["## Options", _options(topology, choices)]
    return "\n\n".join(parts)


def _description(topology: Topology) -> str:
    text = sys.modules[topology.builder.__module__].__doc__ or ""
    return text.strip().replace("``", "`")


def _costs(topology: Topology) -> str:
    rows = []
    for n in _SIZES:
        proof, time = dt.prove(topology, n), dt.simulate(topology, "1gbe", "100MB", world_size=n)
        cost = proof.cost
        sent = f"{cost.buffers_sent:.3g} (at least {proof.bytes_bound:.3g})"
        steps = f"{cost.num_steps} (at least {proof.step_bound})"
        rows.append([str(n), steps, str(cost.num_messages), sent, f"{time.time_s:.3g} s"])
    head = [
        "ranks",
        "steps",
        "messages",
        "buffers that the busiest rank sends",
        "100 MB on 1 GbE (predicted)",
    ]
    return _table(head, rows)


def _options(topology: Topology, choices: dict[str, str]) -> str:
    about = _arguments(topology.builder.__doc__ or "")
    rows = [
        [f"`{key}`", text.replace("|", "\\|"), about.get(key, "")] for key, text in choices.items()
    ]
    return _table(["option", "values", "meaning"], rows)


def _arguments(docstring: str) -> dict[str, str]:
    """Return what a docstring says of each argument."""
    _, _, text = docstring.partition("Args:\n")
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", text, re.MULTILINE)
    return {name: " ".join(said.split()).replace("``", "`") for name, said in found}


def _averaging(name: str, formula: str, pictures: Pictures) -> str:
    del formula
    rule = dt.load_averaging(name)
    topology = "ring" if "all-reduce" in rule.goals else "gossip:graph=ring"
    every, drawn = rule.every, min(rule.every, 3)
    kind = {"gradients": "its gradient", "changes": "the change of its parameters"}
    own = (
        "the change of what it last sent of its parameters" if rule.compresses else "its parameters"
    )
    what = kind.get(rule.sends, own)
    period = "every step" if every == 1 else f"every {every} steps, unless `every` says otherwise"
    compressed = "Any density is possible." if rule.compresses else "It travels dense."
    step = _step(rule, topology, drawn)
    pictures[f"{name}.svg"] = _svg(step_figure(step.runs[0], title=" "))
    parts = [
        (type(rule).__doc__ or "").replace("``", "`").replace("\n    ", "\n").strip(),
        f"Each rank sends {what}, in {period}. {compressed}",
        f"Bytes per step: those of the topology for {_times(rule.vectors)}the model, divided by "
        "`every`.",
        f"![{_steps(drawn)} and an exchange]({name}.svg)",
        f"Four workers of ResNet-50 over `{topology}` on 10 GbE, **predicted**: "
        f"{_steps(drawn)} and an exchange. The upper bar of a rank is its processor, and the "
        "lower one its network.",
        "## Cost",
        _rule_costs(rule, topology),
    ]
    if rows := _fields(type(rule)):
        parts += ["## Options", _table(["option", "default", "values", "meaning"], rows)]
    return "\n\n".join(parts)


def _steps(count: int) -> str:
    return "one step" if count == 1 else f"{count} steps"


def _times(vectors: int) -> str:
    return "" if vectors == 1 else f"{vectors} times "


def _step(
    rule: Averaging, topology: str, every: int, network: str = "10gbe", world_size: int = _DRAWN
) -> dt.StepSimulation:
    return dt.simulate_step(
        "resnet50", topology, network, world_size=world_size, every=every, sends=rule.sends
    )


def _rule_costs(rule: Averaging, topology: str) -> str:
    rows = []
    for network in ("1gbe", "10gbe"):
        for every in sorted({1, rule.every} if rule.every > 1 else {1}):
            step = _step(rule, topology, every, network, 8)
            sent = rule.vectors * step.bytes_per_rank
            busy = f"{step.utilisation:.0%}".replace("%", " %")
            rows.append([network, str(every), f"{sent / 1e6:.3g} MB", busy])
    head = ["network", "`every`", "sent per step by the busiest rank", "time spent computing"]
    text = "ResNet-50, dense, 8 workers, **predicted**."
    if rule.vectors > 1:
        head.pop()
        rows = [row[:-1] for row in rows]
    return f"{_table(head, rows)}\n\n{text}"


def _fields(rule: type[Averaging]) -> list[list[str]]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    rows = []
    for key, about in rule.model_json_schema()["properties"].items():
        kinds = [about, *about.get("anyOf", [])]
        bounds = [f"{sign} {each[b]:,}" for each in kinds for b, sign in signs.items() if b in each]
        default = "" if about.get("default") is None else f"`{about['default']}`"
        meaning = about.get("description", "").replace("``", "`")
        rows.append([f"`{key}`", default, ", ".join(bounds) or about.get("type", ""), meaning])
    return rows


def _all_topologies(*_: object) -> str:
    rows = []
    for name in dt.known_topologies():
        topology = dt.load_topology(name)
        first = _description(topology).partition("\n")[0]
        rows.append([f"[`{name}`]({name}.md)", first.partition(": ")[2]])
    return _table(["name", "idea"], rows)


def _all_averagings(*_: object) -> str:
    rows = []
    for name in dt.known_averagings():
        rule = type(dt.load_averaging(name))
        first = " ".join((rule.__doc__ or "").partition("\n\n")[0].split())
        rows.append([f"[`{name}`](averaging/{name}.md)", first])
    return _table(["rule", "idea"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _svg(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="svg", bbox_inches="tight", metadata={"Date": None})
    return content.getvalue()


_FILLERS: dict[str, Callable[[str, str, Pictures], str]] = {
    "topology": _topology,
    "averaging": _averaging,
    "all topologies": _all_topologies,
    "all averagings": _all_averagings,
}
