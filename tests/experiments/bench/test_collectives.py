"""All-reduces beside Gloo's: what is asked for, what is measured, and what a wrong sum leads to."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.experiments.bench.collectives import (
    GLOO,
    BenchPlan,
    CollectiveRow,
    bench_collectives,
    best,
    sizes_from,
    topologies_from,
)
from dgc_topo.workers import LaunchError
from tests.forked import forked

#: Claims to be an all-reduce, but only rank 0 gets the sum.
LIAR = '''"""A liar."""

import numpy as np
from dgc_topo.schedule import Schedule, reduce


def schedule(world_size: int) -> Schedule:
    others = np.arange(1, world_size)
    return Schedule.from_steps(world_size, 1, [reduce(others, np.zeros_like(others))])
'''


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1kB", [1000]),
        ("1MB,1kB", [1000, 1_000_000]),
        ("1kB:40MB", [1000, 10_000, 100_000, 1_000_000, 10_000_000, 40_000_000]),
        ("1KiB:1KiB,8B:80B", [8, 80, 1024]),
    ],
)
def test_sizes(text: str, expected: list[int]):
    assert sizes_from(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("6B", "--bytes '6B': expected a multiple of 4 bytes, above 0"),
        ("0B", "above 0"),
        ("1MB:1kB", "--bytes '1MB:1kB': expected the smaller size first"),
        ("", "--bytes '': not a number with a unit"),
    ],
)
def test_sizes_that_make_no_sense(text: str, said: str):
    with pytest.raises(ValueError, match=said):
        sizes_from(text)


def test_by_default_every_all_reduce_of_all_ranks():
    labels = {topology.label for topology in topologies_from((), 4)}
    assert {"ring", "ring(segments=4)", "butterfly(algorithm=doubling)", "tree"} <= labels
    assert not {label for label in labels if "gossip" in label}


def test_topologies_by_name_and_options():
    (chosen,) = topologies_from(["butterfly:algorithm=doubling,order=far"], 4)
    assert chosen.label == "butterfly(algorithm=doubling, order=far)"
    with pytest.raises(ValueError, match="expected name or name:key=value"):
        topologies_from(["butterfly:doubling"], 4)
    with pytest.raises(ValueError, match="--topology gossip: expected an all-reduce of all"):
        topologies_from(["gossip"], 4)
    with pytest.raises(ValueError, match="expected an all-reduce of all its ranks"):
        topologies_from(["parameter-server:server=dedicated"], 4)


def test_rounds_fill_the_budget_within_limits():
    plan = BenchPlan(topologies=[], sizes=[4], stream_bytes=4, budget_s=2, slowest=3)
    assert [plan.num_rounds(seconds) for seconds in (10, 0.1, 1e-6)] == [3, 20, 100]


def row(way: str, time_s: float) -> CollectiveRow:
    return CollectiveRow(
        network="loopback",
        world_size=4,
        size_bytes=10_000_000,
        way=way,
        rounds=5,
        time_s=time_s,
        spread_s=0,
        goodput_bytes_per_s=12e6,
        load=0,
    )


def test_bandwidths_as_nccl_tests_define_them():
    ours = row("ring", 1.25)
    assert ours.algbw_bytes_per_s == 8e6
    assert ours.busbw_bytes_per_s == 8e6 * 2 * 3 / 4
    assert ours.bound_s == pytest.approx(1.25)  # at the bound busbw is the stream's goodput


def test_the_best_of_ours_beside_gloo():
    ours, gloo = best([row(GLOO, 1.0), row("ring", 3.0), row("tree", 2.0)])
    assert (ours.way, gloo.way) == ("tree", GLOO)


def test_rows_of_real_processes():
    arguments = "-n 2 -n 3 --sizes 4B,100kB --budget 100ms --json"
    chosen = "--topology ring:segments=2 --topology mesh"
    result = CliRunner().invoke(app, f"bench collectives {arguments} {chosen}".split())
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    keys = [(r["world_size"], r["size_bytes"], r["way"]) for r in rows]
    ways = [GLOO, "ring(segments=2)", "mesh"]
    assert keys == [(n, size, way) for n in (2, 3) for size in (4, 100_000) for way in ways]
    for measured in rows:
        assert measured["network"] == "loopback"
        assert measured["rounds"] == 1 or measured["rounds"] >= 3
        assert measured["time_s"] > 0
        assert measured["goodput_bytes_per_s"] > 0


def test_a_wrong_sum_is_refused(tmp_path: Path):
    liar = tmp_path / "liar.py"
    liar.write_text(LIAR)
    with pytest.raises(LaunchError, match=r"liar.py of 100 bytes: not the sum that Gloo gets"):
        list(bench_collectives(forked(), [2], [100], [str(liar)], budget_s=0.1))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rate", "100Mbit/s"], "expected --lab as well"),
        (["--lab", "--rate", "1kbit/s"], "--rate: rate 1 kbit/s, expected 1 Mbit/s to"),
        (["-n", "1", "-n", "4"], "--world-size 1: expected at least 2"),
        (["--sizes", "3B"], "expected a multiple of 4 bytes"),
        (["--topology", "rong"], "did you mean 'ring'?"),
    ],
)
def test_command_lines_that_make_no_sense(arguments: list[str], said: str):
    result = CliRunner().invoke(app, ["bench", "collectives", *arguments])
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
