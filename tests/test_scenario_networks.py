"""Networks in scenario files: what they build, and what is refused."""

import re

import pytest

from dgc_topo.experiments.prediction import predict
from dgc_topo.experiments.scenario import Scenario, ScenarioError, load_scenario, parse_scenario
from dgc_topo.experiments.training_cases import cases_of_scenario
from dgc_topo.simulation import DenseSizes, simulate_schedule
from dgc_topo.topology import load_topology

REST = """
name = "networks"
[[topologies]]
name = "ring"
[simulate]
networks = ["mine", "1gbe"]
world_sizes = [{world_sizes}]
[[simulate.workloads]]
name = "model"
source = "made up"
compressible_elements = 1_000_000
dense_elements = 0
compute_s = 0.1
batch_size_per_worker = 32
"""


def scenario_with(table: str, world_sizes: str = "8", **where) -> Scenario:
    """*table* holds the keys of one network after its name; 100 bytes a second unless it says."""
    if not re.search("^(bandwidth|base|file)", table, re.M):
        table = f"bandwidth_gbit_per_s = 800e-9\n{table}"
    text = f'[[networks]]\nname = "mine"\n{table}'
    return parse_scenario(REST.format(world_sizes=world_sizes) + text, "my/file.toml", **where)


def built(table: str, world_size: int = 8, **where):
    return scenario_with(table, str(world_size), **where).cluster("mine", world_size)


def time_of(table: str, topology: str = "ring", num_bytes: float = 400, world_size: int = 4):
    schedule = load_topology(topology).schedule(world_size)
    sizes = DenseSizes(num_bytes, schedule.num_chunks)
    return simulate_schedule(schedule, built(table, world_size), sizes).time_s


@pytest.mark.parametrize(
    ("table", "world_size", "num_hosts"),
    [
        ('kind = "star"', 8, 8),
        ('kind = "star"\nnum_hosts = 20', 8, 20),
        ('kind = "racks"\nhosts_per_rack = 3', 8, 9),
        ('kind = "racks"\nhosts_per_rack = 3\nnum_racks = 5', 8, 15),
        ('kind = "fat-tree"', 8, 16),
        ('kind = "fat-tree"', 2, 2),
        ('kind = "fat-tree"\nports = 6', 8, 54),
        ('kind = "ring"', 8, 8),
        ('kind = "torus"', 8, 8),
        ('kind = "torus"', 7, 8),
        ('kind = "torus"\nnum_rows = 3', 8, 9),
        ('kind = "torus"\nnum_columns = 3', 8, 9),
        ('kind = "torus"\nnum_rows = 5\nnum_columns = 4', 8, 20),
        ('kind = "star"\ngpus_per_host = 4', 6, 2),
        ('kind = "star"\ngpus_per_host = 4\nnum_hosts = 3', 6, 3),
        ('kind = "racks"\nhosts_per_rack = 2\ngpus_per_host = 2', 6, 4),
        ('kind = "fat-tree"\ngpus_per_host = 4', 8, 2),
        ('kind = "ring"\ngpus_per_host = 2', 8, 4),
        ('kind = "torus"\ngpus_per_host = 2', 8, 4),
    ],
)
def test_networks_grow_with_the_ranks_unless_they_say_how_large_they_are(
    table, world_size, num_hosts
):
    assert built(table, world_size).num_hosts == num_hosts
    assert time_of(table, world_size=world_size) > 0


@pytest.mark.parametrize("kind", ["star", "fat-tree", "ring", "torus"])
def test_one_rank_is_no_trouble(kind):
    assert (
        time_of(
            f'kind = "{kind}"\nslow_hosts = [{{ host = 0, bandwidth_factor = 0.5 }}]', "ring", 1, 1
        )
        == 0
    )


def test_a_fabric_gives_what_the_table_does_not():
    network = built('kind = "star"\nbase = "1gbe"').network
    assert network.bandwidth_bytes_per_s[0] == 116.2e6
    assert network.latency_s[0] == 12.5e-6
    network = built(
        'kind = "star"\nbase = "1gbe"\nbandwidth_gbit_per_s = 8\nlatency_us = 1'
    ).network
    assert network.bandwidth_bytes_per_s[0] == 1e9
    assert network.latency_s[0] == 1e-6
    assert built('kind = "ring"\nbase = "1gbe"').network.latency_s[0] == 25e-6


def test_round_robin_placement_pays_for_an_oversubscribed_uplink():
    racks = 'kind = "racks"\nhosts_per_rack = 2\nnum_racks = 2\noversubscription = 4'
    in_order, dealt = (
        time_of(f'{racks}\nplacement = "{placement}"') for placement in ("in-order", "round-robin")
    )
    assert in_order == pytest.approx(2 * 6.0)  # one flow on an uplink of half a port
    assert dealt == pytest.approx(4 * 6.0)  # two flows
    assert built(racks + '\nplacement = "round-robin"', 4).placement.tolist() == [0, 2, 1, 3]


def test_gpus_are_fast_inside_their_host():
    gpus = 'kind = "star"\ngpus_per_host = 4\nbandwidth_gbit_per_s = 800e-9'
    assert time_of(gpus, world_size=4, num_bytes=4) < 1e-5  # NVLink
    assert time_of(gpus, world_size=8) == pytest.approx(2 * 7 * 50 / 100, rel=1e-3)
    slower = gpus + "\ninside_bandwidth_gbit_per_s = 400e-9\ninside_latency_us = 0\nlatency_us = 0"
    assert time_of(slower, world_size=8) == pytest.approx(2 * 7 * 50 / 50)


@pytest.mark.parametrize(
    ("more", "seconds"),
    [
        ("", 6.0),
        ("slow_hosts = [{ host = 1, bandwidth_factor = 0.5 }]", 12.0),
        ('slow_links = [{ link = "host 1 up", bandwidth_factor = 0.5 }]', 12.0),
        ("duplex_limit_gbit_per_s = 1200e-9", 8.0),
        ("cpu_cap_gbit_per_s = 800e-9", 12.0),
        ("duplex_limit_gbit_per_s = 1200e-9\ncpu_cap_gbit_per_s = 800e-9", 12.0),
        ("overhead_s = 0.5", 6.0 + 6 * 2 * 0.5),
        ("reduce_s_per_byte = 0.01", 6.0 + 3),
        ("message_times_us = [[1, 2_010_000]]", 6.0 + 6 * 2),
        ("step_overhead_s = 0.5", 6.0 + 6 * 0.5),
        ("send_s_per_byte = 0.02", 12.0),
        ("send_s_per_byte = 5e-3\nreceive_s_per_byte = 15e-3", 12.0),
        ("send_s_per_byte = 0.02\ncores_per_process = 4", 6.0),
        ("send_s_per_byte = 0.02\ncores_per_machine = 2\nhosts_per_machine = 4", 24.0),
        ("reverse_share = 0.5", 9.0),
        ("background = [{ from = 0, to = 1, bytes = 50 }]", 6.5),
        ('changes = [{ at_s = 3, link = "host 0 up", bandwidth_factor = 0.5 }]', 9.0),
        ("changes = [{ at_s = 3, host = 0, bandwidth_gbit_per_s = 400e-9 }]", 9.0),
        (
            "changes = [{ at_s = 3, host = 0, down = true }, "
            "{ at_s = 5, host = 0, bandwidth_factor = 1 }]",
            8.0,
        ),
    ],
)
def test_what_differs_takes_its_time(more, seconds):
    """A ring of 4 takes 6 steps of 100 bytes at 100 bytes a second."""
    assert time_of(f'kind = "star"\n{more}') == pytest.approx(seconds)


CLUSTER = """<platform version="4.1">
  <cluster id="c" prefix="n" suffix="" radical="0-3" speed="1Gf" bw="100Bps" lat="0s"/>
</platform>
"""


def test_a_simgrid_file_beside_the_scenario(tmp_path):
    (tmp_path / "four.xml").write_text(CLUSTER)
    table = '[[networks]]\nname = "mine"\nkind = "simgrid"\nfile = "four.xml"'
    path = tmp_path / "scenario.toml"
    path.write_text(REST.format(world_sizes="4") + table)
    network = load_scenario(path).cluster("mine", 4)
    assert network.num_hosts == 4
    path.write_text(REST.format(world_sizes="5") + table)
    with pytest.raises(ScenarioError, match="5 ranks on 4 hosts, expected no more ranks"):
        load_scenario(path)
    path.write_text(REST.format(world_sizes="4") + table)
    (tmp_path / "four.xml").write_text("hello")
    with pytest.raises(ScenarioError, match=r"networks\[0\] \(mine\) .*file: .*xml: not XML"):
        load_scenario(path)
    (tmp_path / "four.xml").unlink()
    with pytest.raises(ScenarioError, match=r"scenario.toml: networks\[0\] .*file: .*No such file"):
        load_scenario(path)


@pytest.mark.parametrize(
    "more",
    [
        "slow_hosts = [{host = 1, bandwidth_factor = 0.1}]",
        "changes = [{at_s = 0, host = 1, bandwidth_gbit_per_s = 80e-9}]",
        "changes = [{at_s = 0, host = 1, bandwidth_factor = 0.1}]",
    ],
)
def test_a_limit_of_a_simgrid_file_is_no_link_of_its_host(tmp_path, more):
    file = tmp_path / "four.xml"
    file.write_text(CLUSTER.replace("/>", ' limiter_link="120Bps"/>'))
    limited = time_of(f'kind = "star"\nduplex_limit_gbit_per_s = 960e-9\n{more}')
    assert time_of(f'file = "{file}"\nkind = "simgrid"\n{more}') == limited == 60.0


def test_predictions_use_the_networks_of_the_scenario():
    scenario = scenario_with(
        'kind = "star"\nbase = "1gbe"\nslow_hosts = [{host = 0, bandwidth_factor = 0.5}]'
    )
    records = {m.network: m for m in predict(scenario, cases_of_scenario(scenario))}
    slow, fast = (records[name].step_time_s - 0.1 for name in ("mine", "1gbe"))
    assert slow == pytest.approx(2 * fast, rel=1e-2)


def test_a_link_that_fails_for_good_is_told_with_its_network():
    scenario = scenario_with('kind = "star"\nchanges = [{ at_s = 1, host = 0, down = true }]')
    with pytest.raises(ValueError, match=r"network mine with 8 ranks: .*no longer reached: rank 1"):
        list(predict(scenario, cases_of_scenario(scenario)))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (
            'kind = "star"\nbandwidth_gbit_per_s = 0',
            "networks.0.bandwidth_gbit_per_s = 0: exp",
        ),
        (
            'kind = "star"\nbandwidth_gbit_per_s = nan',
            "networks.0.bandwidth_gbit_per_s = nan: exp",
        ),
        ('kind = "star"\nlatency_us = -1', "networks.0.latency_us = -1: expected greater than or"),
        (
            'kind = "star"\nbase = "ideal"',
            r"networks.0.base: fabric 'ideal': unknown, .* 1gbe, 1",
        ),
        (
            'kind = "star"\nbandwidth_mb_per_s = 1\nbandwidth_gbit_per_s = 1',
            "networks.0: bandwidth_mb_per_s is the old name of bandwidth_gbit_per_s, expected one",
        ),
        (
            'kind = "star"\nbandwidth = 1',
            "networks.0.bandwidth: unknown key; valid here: ",
        ),
        ('kind = "star"\nhosts_per_rack = 1', "networks.0.hosts_per_rack: unknown key; valid here"),
        (
            'kind = "stars"',
            "networks.0.kind = 'stars': expected one of star, racks, fat-tree",
        ),
        ("num_hosts = 4", "networks.0.kind: missing, expected one of star, racks"),
        ('kind = "racks"', "networks.0.hosts_per_rack: missing"),
        ('kind = "racks"\nhosts_per_rack = 2\nplacement = "x"', "networks.0.placement = 'x': expe"),
        ('kind = "fat-tree"\nports = 3', "networks.0.ports = 3: expected a multiple of 2"),
        (
            'kind = "star"\nnum_hosts = 4',
            r"networks\[0\] \(mine\) with 8 ranks: 8 ranks on 4 hosts, expected no more ranks",
        ),
        (
            'kind = "racks"\nhosts_per_rack = 2\nnum_racks = 2\nplacement = "round-robin"',
            "8 ranks on 4 hosts",
        ),
        (
            'kind = "star"\nslow_hosts = [{ host = 8, bandwidth_factor = 0.5 }]',
            r"networks\[0\] \(mine\) .*slow_hosts.0.host: host 8, expected 0 to 7",
        ),
        (
            'kind = "star"\nslow_hosts = [{ host = 0, bandwidth_factor = 0 }]',
            "networks.0.slow_hosts.0.bandwidth_fac",
        ),
        (
            'kind = "star"\nslow_links = [{ link = "host 1 upp", bandwidth_factor = 0.5 }]',
            "slow_links.0.link: link 'host 1 upp': unknown, expected one of 16 such as 'host 1 up'",
        ),
        (
            'kind = "star"\nbackground = [{ from = 0, to = 9, bytes = 1 }]',
            "background.0.to: host 9, expected 0 to 7",
        ),
        (
            'kind = "star"\nbackground = [{ from = 0, to = 1, bytes = -1 }]',
            "networks.0.background.0.bytes = -1: expected greater than 0",
        ),
        (
            'kind = "star"\nbackground = [{ form = 0, to = 1, bytes = 1 }]',
            "networks.0.background.0.form: unknown key; valid here: from, to, bytes, start_s",
        ),
        ('kind = "star"\nchanges = [{ at_s = 1, down = true }]', "expected link or host, one of"),
        (
            'kind = "star"\nchanges = [{ at_s = 1, host = 0, down = true, bandwidth_factor = 2 }]',
            "networks.0.changes.0: expected one of bandwidth_factor, bandwidth_g",
        ),
        (
            'kind = "star"\nchanges = [{ at_s = 1, host = 9, down = true }]',
            "changes.0: host 9, expected 0 to 7",
        ),
        (
            'kind = "star"\nmessage_times_us = [[8, 1], [4, 1]]',
            "message_times_us: end costs: .*message_curve sizes .* expected growing sizes",
        ),
        ('kind = "simgrid"', "networks.0.file: missing"),
    ],
)
def test_a_mistake_names_file_and_key(table, says):
    with pytest.raises(ScenarioError, match=says) as refused:
        scenario_with(table)
    assert all(line.startswith("my/file.toml: ") for line in str(refused.value).splitlines())


def test_names_are_of_ones_own_and_unknown_ones_list_all():
    table = '[[networks]]\nname = "{}"\nkind = "star"\nbase = "1gbe"\n'
    rest = REST.format(world_sizes="8")
    with pytest.raises(
        ScenarioError, match=r"simulate.networks\[0\]: .*'mine': unknown.*\(other\).*\(1gbe, 10gbe"
    ):
        parse_scenario(rest + table.format("other"))
    with pytest.raises(ScenarioError, match=r"networks.0.name: '10gbe' is a fabric"):
        parse_scenario(rest + table.format("10gbe"))
    with pytest.raises(ScenarioError, match="networks: name 'mine' is there twice, expected once"):
        parse_scenario(rest + 2 * table.format("mine"))


def test_a_table_without_numbers_says_which_are_missing():
    text = REST.format(world_sizes="8") + '[[networks]]\nname = "mine"\nkind = "star"\n'
    with pytest.raises(ScenarioError, match="no bandwidth, expected base or bandwidth_gbit"):
        parse_scenario(text)


def test_round_robin_deals_ranks_to_hosts():
    placement = built('kind = "star"\ngpus_per_host = 2\nplacement = "round-robin"').placement
    assert placement.tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
