"""SimGrid platforms that contradict themselves, or say what is not supported."""

import copy
import random
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from dgc_topo.simulation import simulate_flows
from tests.simulation.platforms import FLAT, TWO_LEVELS, cluster, platform_of, zone_of

PLATFORMS = Path(__file__).parent / "platforms"

HOSTS = '<host id="a" speed="1f"/><host id="b" speed="1f"/><host id="d" speed="1f"/>'
LINK = '<link id="L" bandwidth="1MBps" latency="1ms"/>'
TWO_WAYS = LINK.replace("/>", ' sharing_policy="SPLITDUPLEX"/>')
TWO_CLUSTERS = cluster(name="c", prefix="c") + cluster(name="e", prefix="e") + LINK


def route(src="a", dst="b", links="L", more="", tag="route"):
    inside = "".join(f'<link_ctn id="{link}"/>' for link in links.split())
    return f'<{tag} src="{src}" dst="{dst}" {more}>{inside}</{tag}>'


def grid(topology, parameters, more="", radical="0-3"):
    shape = f'topology="{topology}" topo_parameters="{parameters}" {more}'
    return cluster(shape, radical=radical)


def zone_route(more='gw_src="cc_router" gw_dst="ee_router"', **ends):
    return route(**({"src": "c", "dst": "e"} | ends), more=more, tag="zoneRoute")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (zone_of(cluster() + cluster(prefix="m")), "<cluster> c: c again, expected a name of its"),
        (zone_of(cluster() + cluster(name="e")), "<cluster> e: n0 again, expected a name of its"),
        (platform_of(cluster(radical="0-3,2-5")), "<cluster> c: n2 again, expected a name of"),
        (zone_of(HOSTS + '<host id="a" speed="1f"/>'), "<host> a: a again, expected a name of"),
        (zone_of(HOSTS + '<router id="b"/>'), "<router> b: b again, expected a name of its own"),
        (zone_of('<zone id="z" routing="Full"/>'), "<zone> z: z again, expected a name of its"),
        (zone_of(LINK + LINK), "<link> L: link L again, expected it once .it is on line 1"),
        (zone_of(TWO_WAYS + LINK.replace('"L"', '"L_UP"')), "link L_UP again, expected it once"),
        (zone_of(LINK.replace('"L"', '"L_UP"') + TWO_WAYS), "link L_UP again, expected it once"),
        (zone_of(HOSTS + LINK + route() + route()), "a - b: a route from a to b again, expected"),
        (zone_of(HOSTS + LINK + route() + route("b", "a")), "a route from b to a again, .* both w"),
        (
            zone_of(TWO_CLUSTERS + zone_route() + zone_route()),
            "<zoneRoute> c - e: a route from c to e again",
        ),
        (zone_of(HOSTS + LINK + route("a", "A")), "<route> a - A: dst 'A': no such place before"),
        (zone_of(HOSTS + LINK + route("a", "z")), "<route> a - z: z: expected a host or router"),
        (zone_of(TWO_CLUSTERS + zone_route(dst="x")), "dst 'x': no such place before, expected"),
        (zone_of(TWO_CLUSTERS + zone_route(dst="e0")), "<zoneRoute> c - e0: e0: expected a zone"),
        (
            zone_of(TWO_CLUSTERS + zone_route('gw_src="cc_router" gw_dst="nowhere"')),
            "<zoneRoute> c - e: gw_dst 'nowhere': no such place before, expected one of 13 such as",
        ),
        (
            zone_of(TWO_CLUSTERS + zone_route('gw_src="cc_router" gw_dst="c0"')),
            "<zoneRoute> c - e: gw_dst c0, expected a host or router in e",
        ),
        (
            zone_of(TWO_CLUSTERS + route("c0", "e0")),
            "<route> c0 - e0: c0 is not right inside zone z",
        ),
        (zone_of(HOSTS + LINK + route(links="M")), "<link_ctn> M: M: no such link before, exp.* L"),
        (zone_of(HOSTS + LINK + route(links="")), "<route> a - b: no links, expected at least one"),
        (zone_of(HOSTS + route() + LINK), "<link_ctn> L: L: no such link before, expected none"),
        (
            zone_of(HOSTS + LINK + route().replace('"L"/', '"L" direction="UP"/')),
            "<link_ctn> L: direction UP of a link that is not SPLITDUPLEX",
        ),
        (
            zone_of(HOSTS + TWO_WAYS + route().replace('"L"/', '"L" direction="LEFT"/')),
            "<link_ctn> L: direction LEFT, expected UP, DOWN or NONE",
        ),
        (zone_of(HOSTS + LINK + route(more='symmetrical="MAYBE"')), "symmetrical MAYBE, expected"),
        (zone_of(HOSTS + LINK + route()), "no route from a to d, expected a <route>"),
        (zone_of(TWO_CLUSTERS), "no route from c to e, expected a <zoneRoute>"),
        (zone_of(HOSTS + LINK + route(), "Floyd"), "no route from a to d, expected a <route>"),
        (zone_of(HOSTS + LINK + route(), "Dijkstra"), "no route from a to d, expected a <route>"),
        (zone_of(HOSTS, "None"), "no route from a to b, for zone z has routing None"),
        (zone_of(HOSTS, "Cluster"), "no link between a and b, expected at least one"),
        (zone_of(HOSTS + LINK + route(), "Cluster"), "routing Cluster, expected no routes in it"),
        (zone_of(HOSTS, "Wifi"), "routing Wifi, expected one of full, floyd, dijkstra"),
        (platform_of(cluster(radical="")), "<cluster> c: no radical, expected one"),
        (platform_of(cluster(radical="0-")), "radical '0-', expected numbers like 0-3,7"),
        (platform_of(cluster(radical="0-3,")), "radical '0-3,', expected numbers like"),
        (platform_of(cluster(radical="0-99999999999")), "radical .*, expected at most 4194304 h"),
        (platform_of(cluster().replace("100MBps", "1.2.5MBps")), "<cluster> c: bw '1.2.5MBps', ex"),
        (platform_of(cluster().replace("100MBps", "-1MBps")), "<cluster> c: bw '-1MBps', expected"),
        (platform_of(cluster().replace("100MBps", "nanMBps")), "<cluster> c: bw 'nanMBps', exp"),
        (platform_of(cluster().replace("100MBps", "1e999MBps")), "bw '1e999MBps', expected above"),
        (platform_of(cluster().replace("100MBps", "1\u0661MBps")), "<cluster> c: bw '1.MBps', exp"),
        (platform_of(cluster().replace("1ms", "-1ms")), "<cluster> c: lat '-1ms', expected a num"),
        (platform_of(cluster().replace("1ms", "1e999s")), "lat '1e999s', expected a finite time"),
        (platform_of(cluster('limiter_link="0MBps"')), "limiter_link '0MBps', expected above 0"),
        (platform_of(cluster('bb_lat="1ms"')), "bb_lat 1ms without bb_bw, expected both"),
        (platform_of(cluster('bb_sharing_policy="SPLITDUPLEX"')), "bb_sharing_policy SPLITDUPLEX"),
        (platform_of(cluster('bandwidth="1MBps"')), "bandwidth: unknown, expected one of .* such"),
        (platform_of(cluster('state_file="x"')), "<cluster> c: state_file: what changes over time"),
        (platform_of(grid("TORUS", "2,3")), "4 hosts, expected 6 as topo_parameters '2,3' say"),
        (platform_of(grid("TORUS", "4;1")), "topo_parameters '4;1', expected a form like '3,3,2'"),
        (platform_of(grid("TORUS", "")), "<cluster> c: no topo_parameters, expected one"),
        (platform_of(grid("TORUS", "4,0")), "topo_parameters '4,0', expected numbers above 0"),
        (platform_of(grid("FAT_TREE", "2;2,2;1,2;1")), "expected a form like '2;4,4;1,2;1,2'"),
        (platform_of(grid("FAT_TREE", "2;2,2;999999,2;1,999999")), "too large, expected 1048576"),
        (platform_of(grid("TORUS", "10000", radical="0-9999")), "10000 hosts outside flat clust"),
        (platform_of(grid("FLAT", "2,2")), "topo_parameters of a FLAT cluster, expected none"),
        (platform_of(grid("TORUS", "4", 'bb_bw="1MBps"')), "bb_bw of a torus, expected none"),
        (zone_of(LINK.replace("/>", ' bandwidth_file="x"/>')), "<link> L: bandwidth_file: what ch"),
        (
            zone_of(HOSTS + '<trace_connect kind="LINK_AVAIL" trace="t" element="L"/>'),
            "kind LINK_AVAIL: what changes over time is not read",
        ),
        (
            zone_of(HOSTS + LINK.replace("/>", "><host/></link>")),
            "expected one of prop in <link> L",
        ),
        (zone_of(HOSTS + '<host_link id="a" up="L" down="L"/>'), "<host_link> a: expected it in"),
        (
            zone_of('<backbone id="L" bandwidth="1Bps"/>'),
            "<backbone> L: expected at most one, in a",
        ),
        (zone_of('<peer id="p" speed="1f" bw_in="1Bps" bw_out="1Bps"/>'), "routing Vivaldi, not F"),
        (
            zone_of('<peer id="p" speed="1f" bw_in="1Bps" bw_out="1Bps" lat="1ms"/>', "Vivaldi"),
            "<peer> p: lat 1ms, expected the third of its coordinates",
        ),
        (
            platform_of(cluster(prefix="a&#10;b")),
            r"line 1: <cluster>: prefix 'a.nb', expected prin",
        ),
        (zone_of('<host id="&#x9b;31m"/>'), r"<host>: id '.x9b31m', expected printable"),
        (zone_of('<host id="&#x202e;"/>'), r"<host>: id '.u202e', expected printable"),
        (zone_of(HOSTS, "Vivaldi"), "no coordinates of a, expected some"),
        (zone_of('<host id="a" coordinates="1 2"/>', "Vivaldi"), "coordinates '1 2', expected 3"),
        (platform_of(cluster(), version="2"), "version 2, expected 3 to 4.1"),
        (platform_of(cluster(), version="9"), "version 9, expected 3 to 4.1"),
        (platform_of(cluster(), version="new"), "version new, expected 3 to 4.1"),
        (platform_of(cluster()) + "<more/>", "not XML .*expected a SimGrid platform"),
        ("<a>" * 200 + "</a>" * 200, "line 1: elements nested too deeply"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(platform, text, message):
    with pytest.raises(ValueError, match=message) as refused:
        platform(text)
    assert "\n" not in str(refused.value)
    assert "platform.xml: " in str(refused.value)


@pytest.mark.parametrize(
    "entity",
    ['<!ENTITY x "y">', '<!ENTITY x SYSTEM "file:///etc/passwd">', '<!ENTITY % x "y">'],
)
def test_entities_are_refused(platform, entity):
    document = f"<!DOCTYPE platform SYSTEM 'https://simgrid.org/simgrid.dtd' [{entity}]>"
    with pytest.raises(ValueError, match="entity x, expected a platform without entities"):
        platform(document + platform_of(cluster()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "platform.xml: not XML .*expected a SimGrid platform"),
        ("<zone/>", "<zone>, expected <platform>"),
        ("<platform/>", "nothing, expected one <cluster> or one <zone>"),
        ("<platform><host/></platform>", "<host>, expected one <cluster>"),
        ("<platform><zone><gpu/></zone></platform>", "<gpu>, expected one of cluster, link"),
        ("<platform><zone/></platform>", "no hosts, expected at least one <cluster>"),
        ('<platform><cluster id="c"/></platform>', "<cluster> c: no bw, expected one"),
        (FLAT.format(more='topology="DRAGONFLY"'), "topology DRAGONFLY is not supported, exp"),
        (FLAT.format(more="").replace("50us", "50 lightyears"), "lat '50 lightyears', expected a"),
        (
            FLAT.format(more="").replace("0-2,7", "all"),
            "radical 'all', expected numbers",
        ),
        (FLAT.format(more='sharing_policy="FATPIPE"'), "sharing_policy FATPIPE, expected SPLIT"),
        (
            FLAT.format(more="").replace("125MBps", "0MBps"),
            "<cluster> c: bw '0MBps', expected above 0",
        ),
        (
            TWO_LEVELS.format(policy="", direction="").replace('"in"/>', '"no"/>'),
            "no: no such link",
        ),
        (
            re.sub(
                "<zoneRoute.*zoneRoute>", "", TWO_LEVELS.format(policy="", direction=""), flags=re.S
            ),
            "no route from a to b, expected a <zoneRoute>",
        ),
    ],
)
def test_what_is_not_a_platform_is_refused(platform, text, message):
    text = text.replace("{policy}", "").replace("{direction}", "")
    with pytest.raises(ValueError, match=message):
        platform(text)


def edited(tree, rng):
    """Return a platform with an element gone, elsewhere or twice, or with another's value."""
    parent, element = rng.choice([(outer, inner) for outer in tree.iter() for inner in outer])
    edit = rng.choice(["gone", "elsewhere", "twice", "value"])
    if edit in {"gone", "elsewhere"}:
        parent.remove(element)
    other = rng.choice(list(tree.iter()))
    if edit in {"elsewhere", "twice"}:
        other.append(copy.deepcopy(element))
    elif edit == "value" and element.attrib:
        values = ["", *other.attrib.values()]
        element.attrib[rng.choice(list(element.attrib))] = rng.choice(values)
    return ET.tostring(tree, encoding="unicode")


@pytest.mark.parametrize("path", sorted(PLATFORMS.glob("*.xml")), ids=lambda path: path.stem)
def test_an_edited_platform_is_read_or_refused_in_one_line(platform, path):
    rng = random.Random(path.stem)
    for _ in range(40):
        text = edited(ET.fromstring(path.read_text()), rng)
        try:
            network = platform(text)
        except ValueError as error:
            refusal = str(error)
            assert "platform.xml: " in refusal
            assert "expected" in refusal or "no route" in refusal
            assert "\n" not in refusal
            continue
        hosts = np.arange(network.num_hosts)
        sizes = np.full(len(hosts), 1e6)
        ends = simulate_flows(network, hosts, np.roll(hosts, 1), sizes, 0 * sizes)
        assert np.isfinite(ends).all()
