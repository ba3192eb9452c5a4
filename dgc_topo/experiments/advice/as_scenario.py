"""Advice as a scenario file: the same ways as predictions that `dgc-topo compare` makes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from dgc_topo.experiments.advice.advice import Advice
from dgc_topo.experiments.advice.clusters import fabric_of
from dgc_topo.network.cluster import Cluster
from dgc_topo.simulation import Workload
from dgc_topo.zoo import known_models


def scenario_text(advice: Advice, network: str | Path | Cluster, *, overlap: bool) -> str:
    """Return a scenario that predicts the ways of *advice*.

    Pruned sums and local steps are left out.  A scenario lets no two workers choose the same
    elements, so sums of compressed gradients are a little larger than in the advice.

    Args:
        advice: The advice.
        network: The network that it was asked about: a fabric's name or a file.
        overlap: As asked; without layers, as of parameters alone, a scenario cannot overlap.

    Raises:
        ValueError: if the network is a `Cluster`, which no file describes.
    """
    if isinstance(network, Cluster):
        raise ValueError(  # noqa: TRY004 - a wrong argument is a wrong value, as everywhere
            "network: a Cluster, expected a fabric's name or a file, for a scenario"
        )
    if fabric_of(network) is None and advice.network != str(network):
        raise ValueError(
            f"network: {network} with {advice.gpus_per_host} GPUs in each host, expected a file "
            "that has them, for a scenario"
        )
    return "\n".join(_lines(advice, network, overlap=overlap)) + "\n"


def _lines(advice: Advice, network: str | Path, *, overlap: bool) -> Iterator[str]:
    workload, fabric = advice.workload, fabric_of(network)
    is_known = workload.name in known_models()
    ways = [way for way in advice.ways if way.form.sends_gradients and way.form.merge == "union"]
    densities = sorted({way.density for way in ways}, reverse=True)
    yield f"# What dgc-topo advise considered for {workload.name}; predictions only."
    yield 'name = "advice"'
    yield f"description = {_text(f'{workload.name} on {advice.network}')}"
    yield from ("", "[compression]", f"densities = {json.dumps(densities)}")
    for topology in dict.fromkeys(way.topology for way in ways):
        yield from ("", "[[topologies]]", *_topology(topology))
    name = os.path.abspath(network) if fabric is None else advice.network  # noqa: PTH100 - FILE:NAME
    yield from ("", "[simulate]", f"networks = [{_text(name)}]")
    yield f"world_sizes = [{advice.num_hosts * advice.gpus_per_host}]"
    yield 'dense_dtypes = ["float32", "bfloat16"]'
    yield f"overlap = {json.dumps(overlap and is_known)}"
    if cost_s := _cost_s_per_element(advice):
        yield f"encode_s_per_element = {cost_s!r}"
    yield from ("", "[[simulate.workloads]]", *_workload(workload, is_known=is_known))
    if advice.gpus_per_host > 1 and fabric is not None:
        yield from ("", "[[networks]]", f"name = {_text(name)}", 'kind = "star"')
        yield from (f"base = {_text(fabric)}", f"gpus_per_host = {advice.gpus_per_host}")


def _workload(workload: Workload, *, is_known: bool) -> Iterator[str]:
    if is_known:
        yield f"model = {_text(workload.name)}"
    else:
        yield f"name = {_text(workload.name.replace(' ', '-'))}"
        yield f"source = {_text(workload.source)}"
        yield f"compressible_elements = {sum(workload.tensor_sizes)}"
        yield f"dense_elements = {workload.dense_elements}"
    yield f"compute_s = {workload.compute_s!r}"
    yield f"batch_size_per_worker = {workload.batch_size}"


def _cost_s_per_element(advice: Advice) -> float:
    """Return the seconds of compressing an element, with its part of what is fixed."""
    elements = max(sum(advice.workload.tensor_sizes), 1)
    return advice.codec.encode_s_per_element + advice.codec.fixed_s / elements


def _topology(label: str) -> Iterator[str]:
    name, _, options = label.partition(":")
    yield f"name = {_text(name)}"
    if options:
        pairs = (option.split("=", 1) for option in options.split(","))
        yield f"options = {{ {', '.join(f'{key} = {value}' for key, value in pairs)} }}"


def _text(text: str) -> str:
    """Return a TOML string."""
    return json.dumps(text, ensure_ascii=False)
