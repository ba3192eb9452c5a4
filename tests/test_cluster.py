"""Clusters: made by one function of a fabric's name, a file, a graph or a network."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.experiments.scenario import parse_scenario
from dgc_topo.network import (
    Background,
    Cluster,
    add_gpus,
    draw_racks,
    known_fabrics,
    load_cluster,
    star,
)
from dgc_topo.network.calibrated import CalibratedNetwork, Parameters
from dgc_topo.network.network_files import load_calibrated
from dgc_topo.simulation import DenseSizes, simulate_flows, simulate_schedule
from dgc_topo.tables.table import OldKeyWarning
from dgc_topo.topology import load_topology

EXAMPLE = "networks/gpus-in-two-racks.toml"
GBIT = 1e9 / 8
FLAT = """<platform version="4.1">
  <cluster id="c" prefix="n" suffix="" radical="0-3" speed="1Gf" bw="1GBps" lat="1us"/>
</platform>
"""
SEVERAL = """
[[networks]]
name = "fast"
kind = "star"
bandwidth_gbit_per_s = 10
[[networks]]
name = "slow"
kind = "star"
base = "1gbe"
num_hosts = 6
slow_hosts = [{ host = 2, bandwidth_factor = 0.5 }]
changes = [{ at_s = 1, host = 0, down = true }]
background = [{ from = 0, to = 5, bytes = 100 }]
"""
SCENARIO = """
name = "mine"
[[topologies]]
name = "ring"
[simulate]
networks = [{networks}]
world_sizes = [4]
[[simulate.workloads]]
name = "model"
source = "made up"
compressible_elements = 1000
dense_elements = 0
compute_s = 0.1
batch_size_per_worker = 1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a file of each kind, from which the test runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.toml").write_text('kind = "ring"\nbase = "10gbe"\n')
    (tmp_path / "several.toml").write_text(SEVERAL)
    (tmp_path / "scenario.toml").write_text(SCENARIO.format(networks='"fast"') + SEVERAL)
    (tmp_path / "flat.xml").write_text(FLAT)
    calibrated().save(tmp_path / "lab.toml")
    return tmp_path


def calibrated():
    parameters = Parameters(latency_s=1e-4, overhead_s=1e-5, cores_per_machine=2)
    return CalibratedNetwork(
        name="lab",
        machine="mine",
        rate_bits_per_s=1e8,
        parameters=parameters,
        median_fit_error=0.1,
        worst_fit_error=0.2,
    )


@pytest.mark.parametrize("name", [name for name in known_fabrics() if name != "ideal"])
def test_a_fabric_is_a_star_of_as_many_hosts_as_ranks(name):
    cluster = load_cluster(name, 64)
    assert repr(cluster) == f"Cluster('{name}', 64 ranks, 64 hosts)"
    assert cluster.fabric is not None
    assert cluster.placement.tolist() == list(range(64))


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("1GbE", "1gbe"), ("10 gbe", "10gbe"), ("IB_HDR", "ib-hdr"), ("NVLink", "nvlink")],
)
def test_fabrics_are_spelled_as_people_do(spelling, name):
    assert load_cluster(spelling, 2).name == name


@pytest.mark.parametrize(
    ("source", "num_ranks", "text"),
    [
        ("one.toml", 5, "Cluster('one.toml', 5 ranks, 5 hosts)"),
        ("several.toml:fast", 1, "Cluster('several.toml:fast', 1 rank, 1 host)"),
        ("several.toml:slow", None, "Cluster('several.toml:slow', 6 ranks, 6 hosts)"),
        ("several.toml:slow", 4, "Cluster('several.toml:slow', 4 ranks, 6 hosts)"),
        ("scenario.toml:slow", 4, "Cluster('scenario.toml:slow', 4 ranks, 6 hosts)"),
        ("scenario.toml:10gbe", 4, "Cluster('10gbe', 4 ranks, 4 hosts)"),
        ("flat.xml", 2, "Cluster('flat.xml', 2 ranks, 4 hosts)"),
        ("flat.xml", None, "Cluster('flat.xml', 4 ranks, 4 hosts)"),
        ("lab.toml", 3, "Cluster('lab.toml', 3 ranks, 3 hosts)"),
        (draw_racks(2, 3, 1.0), None, "Cluster('graph', 6 ranks, 6 hosts)"),
        (star(3, 1.0), 2, "Cluster('network', 2 ranks, 3 hosts)"),
        (add_gpus(star(3, 1.0), 4, 9.0), None, "Cluster('network', 12 ranks, 3 hosts of 4 GPUs)"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_every_kind_of_source(source, num_ranks, text):
    cluster = load_cluster(source, num_ranks)
    assert repr(cluster) == text
    assert load_cluster(cluster) is cluster


def test_files_are_relative_to_a_folder(folder, monkeypatch):
    monkeypatch.chdir("/")
    assert load_cluster("one.toml", 4, folder=folder).num_hosts == 4
    assert load_cluster(folder / "one.toml", 4).num_hosts == 4


@pytest.mark.usefixtures("folder")
def test_a_cluster_has_all_that_its_file_says():
    cluster = load_cluster("several.toml:slow")
    ports = cluster.network.bandwidth_bytes_per_s
    assert ports[2] == ports[8] == 116.2e6 / 2
    assert [change.links for change in cluster.changes] == [(0, 6)]
    assert cluster.background is not None
    assert cluster.background.dst.tolist() == [5]
    page = cluster._repr_html_()
    for text in ("0.4648 Gbit/s to 0.9296 Gbit/s", "host 2: bandwidth x 0.5", "1 flow of other"):
        assert text in page


@pytest.mark.parametrize(
    ("source", "num_ranks", "says"),
    [
        ("1gbe", None, "1gbe: grows with the number of ranks, expected num_ranks$"),
        ("1gbe", 0, "num_ranks 0: expected at least 1"),
        ("1gbee", 4, "'1gbee': unknown, expected one of 1gbe, .*FILE.toml.*did you mean '1gbe'"),
        ("lab", 4, "network 'lab': unknown, expected one of .*FILE.xml$"),
        ("ideal", 4, "ideal: no bandwidth"),
        ("one.toml", None, "one.toml: .*expected num_ranks, or num_hosts in its table"),
        ("one.toml:other", 4, "one.toml: network 'other': unknown, expected one of .*one.toml"),
        (
            "several.toml",
            4,
            r"several.toml: has several networks, .*\(fast, slow\)",
        ),
        ("several.toml:fats", 4, "several.toml: network 'fats': unknown, .*fast, slow"),
        ("several.toml:slow", 7, "7 ranks on 6 hosts, expected no more ranks than hosts"),
        ("lab.toml", None, "lab.toml: a calibrated network: grows .*expected num_ranks"),
        ("none.toml", 4, "none.toml: cannot be read: No such file"),
        ("none.xml", 4, "none.xml: cannot be read: No such file"),
        ("flat.xml", 5, "flat.xml: 5 ranks on 4 hosts"),
        (EXAMPLE, 9, "9 ranks on 4 hosts of 2 GPUs, expected at most 8"),
        (None, 4, "network None: expected a fabric's name"),
        (star(2, 1.0), 3, "3 ranks on 2 hosts"),
        (load_cluster("1gbe", 4), 5, r"Cluster\('1gbe', .*has its ranks already"),
    ],
)
def test_nonsense_is_refused(folder, request, source, num_ranks, says):
    if source == EXAMPLE:
        source = request.config.rootpath / EXAMPLE
    with pytest.raises(ValueError, match=says):
        load_cluster(source, num_ranks)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind =", "n.toml: not TOML .*expected a network file"),
        ("a = 1", "n.toml: no network, expected kind = ... for one"),
        ('kind = "stars"', "n.toml: kind = 'stars': expected one of star, racks"),
        ('kind = "star"', "n.toml: no bandwidth, expected base or bandwidth_gbit_per_s"),
        ('kind = "star"\nbandwith = 1', "n.toml: bandwith: unknown key"),
        ('kind = "star"\nbase = "1gbee"', "n.toml: base: fabric '1gbee': .*did you mean '1gbe'"),
        ('kind = "star"\nbandwidth_gbit_per_s = 0', "n.toml: bandwidth_gbit_per_s = 0: expected"),
        (
            'kind = "star"\nbase = "1gbe"\ninside_latency_us = 1',
            "n.toml: inside_latency_us: expected with gpus_per_host of 2 or more",
        ),
        (
            'kind = "racks"\nbase = "1gbe"\nhosts_per_rack = 2\n'
            'uplinks = [{rack = 2, base = "1gbe"}]',
            "n.toml: uplinks.0: rack 2, expected 0 to 1",
        ),
        (
            'kind = "racks"\nbase = "1gbe"\nhosts_per_rack = 2\nuplinks = [{rack = 1}]',
            "n.toml: uplinks.0: no bandwidth",
        ),
        (
            'kind = "racks"\nbase = "1gbe"\nhosts_per_rack = 2\noversubscription = 2\n'
            "uplink_bandwidth_gbit_per_s = 1",
            "n.toml: oversubscription and uplink_bandwidth_gbit_per_s, expected one of them",
        ),
        (
            'kind = "star"\nbase = "1gbe"\nmessage_curve = [[1, 1]]\nmessage_times_us = [[1, 1]]',
            "n.toml: message_times_us and message_curve, expected one of them",
        ),
        (
            'kind = "star"\nbase = "1gbe"\ngpus_per_host = 2\nslow_hosts = [{host = 2, '
            "bandwidth_factor = 0.5}]",
            "n.toml: slow_hosts.0.host: host 2, expected 0 to 1",
        ),
        (
            'kind = "gpu-hosts"\nbase = "1gbe"\ngpus_per_host = 2\nslow_hosts = [{host = 3, '
            "factor = 0.5}]",
            "n.toml: slow_hosts with kind = 'gpu-hosts', where a host was a GPU",
        ),
        (SEVERAL + "more = 1", "n.toml: networks.1.more: unknown key"),
        ("more = 1\n" + SEVERAL, "n.toml: more: unknown key"),
        (2 * SEVERAL, "n.toml: networks: name 'fast' is there twice"),
        ("parameters = 1", "n.toml: name: .*expected a network file"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_file_and_key(tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "n.toml").write_text(text)
    with pytest.raises(ValueError, match=f"^{says}"):
        load_cluster("n.toml", 4)


@pytest.fixture
def example(request):
    return load_cluster(request.config.rootpath / EXAMPLE)


def test_the_example_takes_the_times_that_one_would_work_out(example):
    """Rack 1 gets and sends 1 Gbit/s, which a ring's chunks cross in every step."""
    assert repr(example).endswith("8 ranks, 4 hosts of 2 GPUs)")
    chunk, steps = 1e6, 14
    schedule = load_topology("ring").schedule(8)
    latency_s = 2 * 2e-6 + 4 * 10e-6
    run = simulate_schedule(schedule, example, DenseSizes(8 * chunk, schedule.num_chunks))
    assert run.time_s == pytest.approx(steps * (chunk / GBIT + latency_s), rel=1e-9)
    assert run.bounds.bound_by.startswith(("core -> rack 1", "rack 1 -> core"))


@pytest.mark.parametrize(
    ("src", "dst", "gbit_per_s", "latency_us"),
    [
        ([0], [1], 96, 4),  # inside a host
        ([0], [2], 10, 24),  # from host to host
        ([0, 1], [2, 3], 5, 24),  # two GPUs share their host's link
        ([0], [4], 1, 44),  # across both uplinks
        ([0, 2], [4, 6], 0.5, 44),
    ],
)
def test_flows_of_the_example(example, src, dst, gbit_per_s, latency_us):
    sizes = np.full(len(src), 1e6)
    finish_s = simulate_flows(example.network, np.array(src), np.array(dst), sizes, 0 * sizes)
    np.testing.assert_allclose(finish_s, 1e6 / (gbit_per_s * GBIT) + latency_us * 1e-6, rtol=1e-9)


HOSTS_OF_GPUS = 'kind = "star"\nbandwidth_gbit_per_s = 8e-9\nlatency_us = 0\ngpus_per_host = 2\n'


def test_a_host_is_a_machine_in_every_key(tmp_path):
    file = tmp_path / "n.toml"
    file.write_text(
        HOSTS_OF_GPUS + "slow_hosts = [{ host = 1, bandwidth_factor = 0.5 }]\n"
        "background = [{ from = 1, to = 3, bytes = 7 }]\n"
        "changes = [{ at_s = 1, host = 2, bandwidth_factor = 0.25 }]\nduplex_limit_gbit_per_s = 1"
    )
    cluster = load_cluster(file, 8)
    network = cluster.network
    slow = [link for link in range(8) if network.bandwidth_bytes_per_s[link] == 0.5]
    assert [network.link_names(link) for link in slow] == ["host 1 up", "host 1 down"]
    assert isinstance(cluster.background, Background)
    assert (cluster.background.src.tolist(), cluster.background.dst.tolist()) == ([2], [6])
    names = [network.link_names(link) for link in cluster.changes[0].links]
    assert names == ["host 2 up", "host 2 down"]
    limits = [name for name in map(network.link_names, range(network.num_links)) if "both" in name]
    assert limits == [f"host {host} both ways" for host in range(4)]


@given(hosts=st.integers(1, 5), gpus=st.integers(1, 4), seed=st.integers(0, 99))
def test_routes_with_gpus_are_those_between_hosts_and_two_links_inside(hosts, gpus, seed):
    base = star(hosts, 1.0)
    network = add_gpus(base, gpus, 9.0)
    src, dst = np.random.default_rng(seed).integers(0, hosts * gpus, (2, 20))
    for start, end, route in zip(src, dst, network.routes(src, dst), strict=True):
        names = [network.link_names(link) for link in route if link >= 0]
        [outside] = base.routes(np.array([start // gpus]), np.array([end // gpus]))
        between = [base.link_names(link) for link in outside if link >= 0]
        first, last = (f"host {gpu // gpus} GPU {gpu % gpus}" for gpu in (start, end))
        assert names == ([] if start == end else [f"{first} up", *between, f"{last} down"])


@pytest.mark.usefixtures("folder")
def test_a_calibrated_network_serves_wherever_a_network_does():
    runner = CliRunner()
    for network in ("lab.toml", "scenario.toml:slow", "several.toml:fast", "flat.xml"):
        given_ = ["-n", "4", "--bytes", "1MB", "--network", network, "--json"]
        done = runner.invoke(app, ["simulate", "ring", *given_])
        assert done.exit_code == 0, done.output
    done = runner.invoke(app, ["step", "vgg16", "-n", "4", "--network", "lab.toml"])
    assert done.exit_code == 0, done.output
    assert load_calibrated("lab.toml").parameters == calibrated().parameters
    with pytest.raises(ValueError, match=r"one\.toml: expected a network file as"):
        load_calibrated("one.toml")


def test_a_scenario_names_files_beside_it(folder, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    text = SCENARIO.format(networks='"lab.toml", "several.toml:slow", "1gbe"')
    scenario = parse_scenario(text, "mine.toml", folder)
    assert scenario.names_files
    assert scenario.cluster("lab.toml", 4).network.costs.overhead_s == 1e-5
    assert scenario.cluster("several.toml:slow", 4).num_hosts == 6
    with pytest.raises(ValueError, match=r"simulate.networks\[0\]: .*none.toml: cannot be read"):
        parse_scenario(SCENARIO.format(networks='"none.toml"'), "mine.toml", folder)


def test_old_keys_of_a_network_file_mean_what_they_meant(tmp_path):
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(
        'kind = "gpu-hosts"\nbandwidth_mb_per_s = 125\ngpus_per_host = 2\nnum_machines = 3\n'
        "inside_bandwidth_gb_per_s = 10\nmessage_overhead_us = 4\nreduce_gb_per_s = 5\n"
        "cpu_send_ns_per_byte = 0.5\nduplex_limit_mb_per_s = 187.5\n"
        'slow_links = [{ link = "host 0 up", factor = 0.5 }]\n'
    )
    new.write_text(
        'kind = "star"\nbandwidth_gbit_per_s = 1\ngpus_per_host = 2\nnum_hosts = 3\n'
        "inside_bandwidth_gbit_per_s = 80\noverhead_s = 4e-6\nreduce_s_per_byte = 2e-10\n"
        "send_s_per_byte = 5e-10\nduplex_limit_gbit_per_s = 1.5\n"
        'slow_links = [{ link = "host 0 up", bandwidth_factor = 0.5 }]\n'
    )
    with pytest.warns(OldKeyWarning) as warned:
        before = load_cluster(old)
    assert len(warned) == 8
    assert all(str(each.message).startswith(f"{old}: ") for each in warned)
    after = load_cluster(new)
    assert isinstance(after, Cluster)
    np.testing.assert_allclose(
        before.network.bandwidth_bytes_per_s, after.network.bandwidth_bytes_per_s, rtol=1e-12
    )
    costs, expected = (
        cluster.network.costs.model_dump(exclude={"message_curve"}) for cluster in (before, after)
    )
    assert costs == pytest.approx(expected)


@pytest.mark.parametrize(
    "command", [["simulate", "ring", "--bytes", "1MB"], ["step", "vgg16", "--topology", "ring"]]
)
def test_commands_warn_of_an_old_key_in_one_line(tmp_path, command):
    file = tmp_path / "old.toml"
    file.write_text('kind = "star"\nbandwidth_mb_per_s = 125\n')
    done = CliRunner().invoke(app, [*command, "-n", "4", "--network", str(file)])
    assert done.exit_code == 0, done.output
    [line] = [line for line in done.stderr.splitlines() if "bandwidth_mb_per_s" in line]
    assert line.startswith(f"warning: {file}: bandwidth_mb_per_s has a new name")
