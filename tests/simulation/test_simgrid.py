"""Reading SimGrid platforms.

What SimGrid says of the platforms beside this file is in ``times.json``: latencies of all routes,
and when flows end that start together (SimGrid 3.32 with network/model:CM02, network/optim:Full,
and network/crosstraffic, network/TCP-gamma and network/weight-S 0).
"""

import json
from pathlib import Path

import numpy as np
import pytest

from dgc_topo.network import LinkChange, links_of_host, read_simgrid, slow_host, slow_links
from dgc_topo.simulation import simulate_flows, simulate_schedule
from dgc_topo.topology import load_topology
from tests.simulation.placed import placed
from tests.simulation.platforms import FLAT, TWO_LEVELS, cluster, platform_of

PLATFORMS = Path(__file__).parent / "platforms"
TIMES = json.loads((PLATFORMS / "times.json").read_text())


def finish(network, *flows):
    src, dst, num_bytes = (np.array(column) for column in zip(*flows, strict=True))
    return simulate_flows(network, src, dst, num_bytes.astype(float), np.zeros(len(flows))).tolist()


def test_flat_cluster(platform):
    network = platform(FLAT.format(more=""))
    assert network.num_hosts == 4
    assert network.link_names(6) == "node-7.org up"
    assert finish(network, (0, 3, 125e6), (3, 0, 125e6)) == pytest.approx([1.0001, 1.0001])


def test_flat_cluster_with_one_link_both_ways_limiter_and_backbone(platform):
    network = platform(FLAT.format(more='sharing_policy="SHARED"'))
    assert finish(network, (0, 3, 125e6), (3, 0, 125e6)) == pytest.approx([2.0001, 2.0001])
    network = platform(FLAT.format(more='limiter_link="187.5MBps"'))
    assert finish(network, (0, 3, 187.5e6), (3, 0, 187.5e6)) == pytest.approx([2.0001, 2.0001])
    network = platform(FLAT.format(more='bb_bw="125MBps" bb_lat="900us"'))
    assert finish(network, (0, 1, 125e6), (2, 3, 125e6)) == pytest.approx([2.001, 2.001])


def test_two_levels(platform):
    network = platform(TWO_LEVELS.format(policy='sharing_policy="SPLITDUPLEX"', direction=""))
    assert network.num_hosts == 5
    # One way: 1 + 10 + 20 + 3 + 2 ms and 500 bytes/s; both ways at once no slower on "out".
    assert finish(network, (0, 2, 500)) == pytest.approx([1.036])
    assert finish(network, (0, 2, 500), (3, 1, 500)) == pytest.approx([1.036, 1.036])
    assert finish(network, (2, 3, 1000), (3, 4, 1000)) == pytest.approx([1.007 + 1 / 3] * 2)
    shared = platform(TWO_LEVELS.format(policy="", direction=""))
    assert finish(shared, (0, 2, 500), (3, 1, 500)) == pytest.approx([2.036, 2.036])
    down = platform(
        TWO_LEVELS.format(policy='sharing_policy="SPLITDUPLEX"', direction='direction="DOWN"')
    )
    [route] = down.routes(np.array([0]), np.array([2]))
    names = [down.link_names(link) for link in route if link >= 0]
    assert names == ["a0 up", "out down", "in", "b backbone", "b0 down"]


@pytest.mark.parametrize("name", TIMES)
def test_routes_and_times_are_those_of_simgrid(name):
    network = read_simgrid(PLATFORMS / f"{name}.xml")
    latency_ms = np.array(TIMES[name]["latency_ms"])
    assert network.num_hosts == len(latency_ms)
    src, dst = np.divmod(np.arange(latency_ms.size), network.num_hosts)
    routes = network.routes(src, dst)
    found = np.append(network.latency_s, 0.0)[routes].sum(axis=1) * 1e3
    np.testing.assert_allclose(found, latency_ms.ravel(), rtol=1e-8, atol=1e-12)
    for flows in TIMES[name]["together"]:
        src, dst, num_bytes, end_s = (np.array(column) for column in zip(*flows, strict=True))
        ends = simulate_flows(network, src, dst, num_bytes.astype(float), np.zeros(len(flows)))
        np.testing.assert_allclose(ends, end_s, rtol=1e-8)


@pytest.mark.parametrize("name", TIMES)
def test_names_of_older_files_mean_the_same(name, platform):
    text = (PLATFORMS / f"{name}.xml").read_text()
    older = text.replace("<zone ", "<AS ").replace("</zone>", "</AS>").replace("speed=", "power=")
    older = older.replace("zoneRoute", "ASroute").replace("bypassZoneRoute", "bypassASroute")
    older = older.replace("SPLITDUPLEX", "FULLDUPLEX").replace('"4.1"', '"3"')
    pairs = np.divmod(np.arange(4), 2)
    new, old = read_simgrid(PLATFORMS / f"{name}.xml"), platform(older)
    assert new.routes(*pairs).tolist() == old.routes(*pairs).tolist()
    assert new.bandwidth_bytes_per_s.tolist() == old.bandwidth_bytes_per_s.tolist()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_encodings(tmp_path, encoding):
    path = tmp_path / "platform.xml"
    declared = encoding.removesuffix("-sig")
    text = f'<?xml version="1.0" encoding="{declared}"?>' + platform_of(
        cluster(prefix="h\u00f4te ")
    )
    path.write_bytes(text.encode(encoding))
    assert read_simgrid(path).link_names(0) == "h\u00f4te 0 up"


def test_a_reversed_radical_is_the_same_hosts(platform):
    forward, backward = (platform(platform_of(cluster(radical=text))) for text in ("0-3", "3-0"))
    assert [forward.link_names(link) for link in range(8)] == [
        backward.link_names(link) for link in range(8)
    ]


def test_defaults_may_be_said(platform):
    said = (
        'bb_bw="" bb_sharing_policy="SHARED" sharing_policy="SPLITDUPLEX" topology="FLAT" core="1" '
        'topo_parameters="" limiter_link="" loopback_bw="1GBps" loopback_lat="0" router_id=""'
    )
    plain, spelled = platform(platform_of(cluster())), platform(platform_of(cluster(said)))
    flows = [(0, 1, 1e6), (1, 0, 1e6), (0, 2, 1e6)]
    assert finish(plain, *flows) == finish(spelled, *flows)


def test_units(platform):
    for rate, bytes_per_s in {
        "8": 8, "8Bps": 8, "8 kBps": 8e3, "1e3kbps": 125e3, ".5MiBps": 2**19, "1Gibps": 2**27,
        "2.TBps": 2e12, "+1Ebps": 1.25e17,
    }.items():  # fmt: skip
        network = platform(platform_of(cluster().replace("100MBps", rate)))
        assert network.bandwidth_bytes_per_s[0] == bytes_per_s
    for time, seconds in {
        "0": 0,
        "2": 2,
        "1m": 60,
        "1.5h": 5400,
        "3us": 3e-6,
        "4ps": 4e-12,
    }.items():
        network = platform(platform_of(cluster().replace("1ms", time)))
        assert network.latency_s[0] == seconds


def ring_time(network, **settings):
    schedule = load_topology("ring", {}).schedule(network.num_hosts)
    cluster = placed(network, schedule.world_size, **settings)
    return simulate_schedule(schedule, cluster, 4e6).time_s


@pytest.mark.parametrize(
    "name", ["limited", "half-duplex", "cabinets", "gateway-is-a-host", "torus", "fat-tree"]
)
def test_a_slow_host_has_slow_links_and_the_limits_of_before(name):
    network = read_simgrid(PLATFORMS / f"{name}.xml")
    links = links_of_host(network, 1)
    host = TIMES[name]["hosts"][1]
    names = [network.link_names(link) for link in links]
    assert all(host in name.split() for name in names)
    assert f"{host} both ways" not in names
    slow = ring_time(slow_host(network, 1, 0.1))
    assert slow == pytest.approx(ring_time(network, changes=[LinkChange(0.0, links, 0.1)]))
    assert slow > 2 * ring_time(network)


@pytest.mark.parametrize(
    ("name", "host", "link"),
    [("links-one-by-one", 1, "fat"), ("floyd", 0, None), ("cabinets", 6, "l1"), ("deep", 3, None)],
)
def test_a_host_without_links_of_its_own_cannot_be_slow(name, host, link):
    network = read_simgrid(PLATFORMS / f"{name}.xml")
    if link is None:
        assert links_of_host(network, host)
        return
    with pytest.raises(ValueError, match=f"host {host} .*: {link} is not its alone, expected"):
        slow_host(network, host, 0.5)


def test_a_large_torus_finds_only_the_routes_it_needs(platform):
    """Six million routes between 2500 hosts would take minutes."""
    shape = 'topology="TORUS" topo_parameters="50,50"'
    network = platform(platform_of(cluster(shape, radical="0-2499")))
    assert finish(network, (0, 1, 1e8), (0, 2499, 1e8)) == pytest.approx([1.001, 1.002])


def test_a_pipe_has_no_bandwidth_to_change():
    network = read_simgrid(PLATFORMS / "links-one-by-one.xml")
    [pipe] = [link for link in range(5) if network.link_names(link) == "fat"]
    with pytest.raises(
        ValueError, match=r"fat: only delays .* expected a link whose bandwidth can"
    ):
        slow_links(network, [pipe], 0.5)
    with pytest.raises(ValueError, match="fat: only delays"):
        ring_time(network, changes=[LinkChange(0.0, (pipe,), 0.0)])


def test_a_large_cluster_behind_a_wide_pipe_needs_nothing_per_pair(platform):
    wide, narrow = (
        cluster(f'bb_bw="{bandwidth}" bb_sharing_policy="FATPIPE"', radical="0-2999")
        for bandwidth in ("1GBps", "10MBps")
    )
    network = platform(platform_of(wide))
    assert network.num_links == 6001
    assert finish(network, (0, 2999, 1e8), (1, 2998, 1e8)) == pytest.approx([1.002, 1.002])
    with pytest.raises(ValueError, match=r"a FATPIPE narrower than .* 3000 hosts, expected 2048"):
        platform(platform_of(narrow))
