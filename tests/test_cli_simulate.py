"""``dgc-topo simulate``: one topology once on one network, and scenario files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.wire.coding import WireCoding
from dgc_topo.wire.limits import HEADER_BYTES

KEYS = {
    "topology",
    "world_size",
    "network",
    "num_bytes",
    "density",
    "algbw_bytes_per_s",
    "time_s",
    "messages",
    "bytes_per_rank",
    "busbw_bytes_per_s",
    "lower_bound_s",
    "bound_by",
    "wall_s",
}
TEXTS = {"bound_by", "topology", "network"}
ALPHA, BETA = 100e-6, 1 / 125e6  # two links of 50 us
FABRICS = Path(__file__).parent.parent / "scenarios" / "fabrics.toml"
IDEAL = ("--network", "ideal", "--bandwidth", "125MB/s", "--latency", "50us")


@pytest.fixture
def run(wide):
    def invoke(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(app, ["simulate", *arguments])
        assert result.exit_code == status, result.output
        return result.output

    return invoke


@pytest.fixture
def outcome(run):
    def invoke(topology, world_size, *arguments):
        return json.loads(run(topology, "-n", str(world_size), *arguments, "--json"))

    return invoke


def test_one_json_object_that_equals_the_closed_form(outcome):
    n, num_bytes = 16, 100 * 2**20
    found = outcome("ring", n, "--bytes", "100MiB", *IDEAL)
    assert set(found) == KEYS
    asked = ("topology", "world_size", "network", "num_bytes", "density")
    assert [found[key] for key in asked] == ["ring", n, "ideal", num_bytes, 1.0]
    time_s = 2 * (n - 1) * ALPHA + 2 * (n - 1) / n * num_bytes * BETA
    assert found["time_s"] == pytest.approx(time_s, rel=1e-9)
    assert found["messages"] == 2 * n * (n - 1)
    assert found["bytes_per_rank"] == pytest.approx(2 * (n - 1) / n * num_bytes)
    assert found["busbw_bytes_per_s"] == pytest.approx(found["bytes_per_rank"] / time_s)
    assert found["lower_bound_s"] == pytest.approx(2 * (n - 1) / n * num_bytes * BETA)
    assert found["bound_by"] == "host 0 up (and 31 more)"


def test_named_fabrics_latency_bounds_and_options(outcome):
    tiny = outcome("butterfly", 8, "--bytes", "8B", "--option", "algorithm=doubling")
    assert tiny["bound_by"] == "latency"
    assert tiny["time_s"] == pytest.approx(3 * 25e-6, rel=0.01)  # 1gbe unless told otherwise
    assert tiny["lower_bound_s"] == pytest.approx(3 * 25e-6)
    faster = outcome("butterfly", 8, "--bytes", "8B", "--network", "ib-edr")
    assert faster["time_s"] < tiny["time_s"]


@pytest.mark.parametrize("size", ["1B", "10MB"])
@pytest.mark.parametrize("density", [None, "0.01"])
@pytest.mark.parametrize(
    "topology",
    [
        ("ring",),
        ("tree",),
        ("mesh",),
        ("butterfly",),
        ("butterfly", "algorithm=doubling"),
        ("hierarchical", "group_size=3"),
        ("parameter-server",),
        ("parameter-server", "server=dedicated"),
        ("sharded-parameter-server",),
        ("gossip", "graph=random-matching"),
        ("gossip", "graph=exponential"),
        ("gossip", "graph=complete"),
    ],
    ids=" ".join,
)
def test_nothing_beats_its_lower_bound(outcome, topology, density, size):
    name, *options = topology
    chosen = [word for option in options for word in ("--option", option)]
    if density:
        chosen += ["--density", density]
    for exponent in ("0", "0.5", "1", None) if density else (None,):
        growth = ["--union-exponent", exponent] if exponent else []
        for world_size in (2, 7, 8):
            found = outcome(name, world_size, "--bytes", size, *IDEAL, *chosen, *growth)
            assert 0 <= found["lower_bound_s"] <= found["time_s"] * (1 + 1e-12)
            assert (found["lower_bound_s"] > 0) or world_size == 2  # one worker and its server
            assert all(math.isfinite(found[key]) for key in KEYS - TEXTS)


def coded_bytes(entries):
    """Return the bytes of a message of so many entries among a million."""
    return WireCoding().expected_bytes(np.array([1e6]), np.array([entries]))[0]


def test_sparse_sizes_follow_the_union(outcome):
    sparse = ("--bytes", "4MB", "--density", "0.001", *IDEAL)
    for exponent, factor in (("1", 8), ("0", 1)):
        tree = outcome("tree", 8, *sparse, "--union-exponent", exponent)
        assert tree["bytes_per_rank"] == pytest.approx(3 * coded_bytes(1000 * factor))
    independent = outcome("tree", 8, *sparse)["bytes_per_rank"]
    assert 3 * coded_bytes(7900) < independent < 3 * coded_bytes(8000)
    assert outcome("ring", 4, "--bytes", "4MB", "--density", "1", *IDEAL)["bytes_per_rank"] == 6e6


def test_reselection_cuts_the_sum_before_it_is_sent_on(outcome):
    sparse = ("--bytes", "4MB", "--density", "0.001", *IDEAL)
    for merge in ("reselect", "auto"):
        server = outcome("parameter-server", 8, *sparse, "--merge", merge)
        assert server["bytes_per_rank"] == pytest.approx(7 * coded_bytes(1000))
    exact, auto = (outcome("mesh", 8, *sparse, "--merge", m) for m in ("union", "auto"))
    assert auto["bytes_per_rank"] == exact["bytes_per_rank"]  # nobody sends a whole sum on
    placed = outcome("mesh", 8, *sparse, "--balance")
    assert placed["messages"] == 2 * exact["messages"]


def test_one_rank_and_no_bytes_take_no_time(outcome):
    alone = outcome("ring", 1, "--bytes", "1GB")
    assert alone["time_s"] == alone["lower_bound_s"] == alone["busbw_bytes_per_s"] == 0
    assert alone["bound_by"] == "nothing"
    empty = outcome("ring", 4, "--bytes", "0B", "--network", "ideal", "--bandwidth", "1GB/s")
    assert empty["time_s"] == empty["busbw_bytes_per_s"] == 0
    headers = outcome("ring", 4, "--bytes", "0B", "--density", "0.1")
    assert headers["bytes_per_rank"] == 6 * HEADER_BYTES


@pytest.mark.parametrize(
    "name", ["racks-in-order", "racks-round-robin", "gpu-hosts", "slow-host", "10gbe"]
)
@pytest.mark.parametrize("size", ["1B", "10MB"])
def test_networks_of_a_scenario_file_have_a_lower_bound_too(outcome, name, size):
    chosen = ("--bytes", size, "--network", f"{FABRICS}:{name}")
    for world_size in (2, 12):
        for topology in ("ring", "tree", "butterfly", "sharded-parameter-server", "gossip"):
            for sparse in ((), ("--density", "0.01")):
                found = outcome(topology, world_size, *chosen, *sparse)
                assert 0 < found["lower_bound_s"] <= found["time_s"] * (1 + 1e-12)


def test_a_slow_host_bounds_everyone(outcome):
    found = outcome("ring", 4, "--bytes", "100MB", "--network", f"{FABRICS}:slow-host")
    assert found["bound_by"].startswith("host 1 ")
    assert found["lower_bound_s"] == pytest.approx(100 / 11.62)  # it receives the sum at least once


def test_an_uplink_bounds_everyone_behind_it(outcome):
    """What n bytes take through the narrowest cut between the ranks, there and back."""
    chosen = ("--bytes", "116.2MB", "--network")
    racks = outcome("butterfly", 16, *chosen, f"{FABRICS}:racks-in-order")
    assert racks["lower_bound_s"] == pytest.approx(2 * 15 / 16)  # an uplink of two ports takes less
    gpus = outcome("ring", 8, *chosen, f"{FABRICS}:gpu-hosts")
    assert gpus["lower_bound_s"] == pytest.approx(1)
    sparse = ("--density", "0.001", "--union-exponent", "1")
    few = outcome("ring", 8, *chosen, f"{FABRICS}:gpu-hosts", *sparse)
    # Entries of the four GPUs over there: a value, and an index among 250 elements less 2 bits.
    entry_bytes = 4 + (math.log2(250) - 2) / 8
    assert few["lower_bound_s"] == pytest.approx(4 * 0.001 * entry_bytes / 4)


def test_a_table_with_units(run):
    output = run("ring", "-n", "4", "--bytes", "100MiB", *IDEAL)
    for said in ("105 MB, on ideal: 125 MB/s each way, 100 µs host to host", "1.26 s", "600 µs"):
        assert said in output
    assert "host 0 up (and 7 more)" in output
    assert "125 MB/s" in output


def test_a_topology_of_ones_own_and_goal_text(run, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from dgc_topo.schedule import Schedule, reduce\n"
        "def schedule(world_size):\n"
        "    return Schedule.from_steps(world_size, 1, [reduce(0, 1)], goal='part')\n"
    )
    written = tmp_path / "mine.goal"
    output = run(str(mine), "-n", "2", "--bytes", "1kB", "--goal", str(written), "--json")
    assert json.loads(output)["lower_bound_s"] == 0
    assert "send 1000b to 1 tag 0" in written.read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("rign -n 4 --bytes 1MB", "did you mean 'ring'"),
        ("ring --bytes 1MB", "--world-size: missing, expected a number of ranks"),
        ("ring -n 4", "--bytes: missing, expected a size such as 100MiB"),
        ("ring -n 0 --bytes 1MB", "world_size 0, expected at least 1"),
        ("ring -n 4 --bytes 100h", "--bytes '100h': unknown unit 'h', expected a size such"),
        ("ring -n 4 --bytes=-1MB", "--bytes '-1MB': negative"),
        (
            "ring -n 4 --bytes 1MB --network 1gb",
            "--network: network '1gb': unknown, expected one of 1gbe",
        ),
        ("ring -n 4 --bytes 1MB --network x.toml:mine", "x.toml: cannot be read"),
        ("ring -n 4 --bytes 1MB --network {FABRICS}:my", "expected one of [[networks"),
        ("ring -n 4 --bytes 1MB --network ideal", "--bandwidth: missing"),
        (
            "ring -n 4 --bytes 1MB --network ideal --bandwidth 0MB/s",
            "--bandwidth '0MB/s': expected a bandwidth above 0",
        ),
        (
            "ring -n 4 --bytes 1MB --network ideal --bandwidth 1GB/s --latency 50",
            "--latency '50': no unit, expected a time such as 50us",
        ),
        ("ring -n 4 --bytes 1MB --latency 1us", "--latency: is fixed for --network 1gbe"),
        ("ring -n 4 --bytes 1MB --density 0", "density 0.0: expected above 0, at most 1"),
        ("ring -n 4 --bytes 1MB --union-exponent 1", "is for sparse sizes"),
        ("ring -n 4 --bytes 1MB --density 0.1 --union-exponent 2", "expected 0 to 1"),
        ("ring -n 4 --bytes 1MB -o out", "--output: is for a scenario file; 'ring' is a topology"),
        ("x.toml --bytes 1MB", "--bytes: is for a topology; x.toml is a scenario"),
        ("x.toml", "x.toml: cannot be read"),
    ],
)
def test_nonsense_is_one_clear_error_that_names_the_option(run, arguments, says):
    output = run(*arguments.format(FABRICS=FABRICS).split(), status=2)
    assert says in output
    assert "Traceback" not in output
