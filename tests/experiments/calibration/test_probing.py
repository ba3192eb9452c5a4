"""Probing the machines of a launcher: rates, interfaces, the network file, and advice from it."""

import json
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from dgc_topo.cli import under_launcher as command
from dgc_topo.cli.main import app
from dgc_topo.experiments.calibration.probing import Carrier, ProbedNetwork, probe
from dgc_topo.network.calibrated import CalibratedNetwork, Parameters
from dgc_topo.runtime.interfaces import line_rate, sent_by_interface
from dgc_topo.workers import Session
from dgc_topo.workers.lab import Lab, LabError, LabSpec
from tests.forked import forked

LINES = {"eth0": 1e9, "eth1": None, "lo": None}


def found(*interfaces: str, rate: float = 941e6) -> ProbedNetwork:
    network = CalibratedNetwork(
        name="mine",
        machine="none",
        rate_bits_per_s=rate,
        parameters=Parameters(),
        median_fit_error=0.012,
        worst_fit_error=0.3,
    )
    carriers = tuple(Carrier(name, 0.99, LINES[name]) for name in interfaces)
    return ProbedNetwork(network, 50e-6, rate, 0.9 * rate, carriers)


def test_it_says_which_interface_carries_the_traffic_and_what_part_of_its_line_it_reaches():
    text = "\n".join(found("eth0", "eth0", "eth1").lines)
    assert "50.0 µs one way" in text
    assert "941 Mbit/s of payload" in text
    assert "90% of that in each direction" in text
    assert "eth0 carries the messages of ranks 0, 1 (99% of what was sent)" in text
    assert "94% of its 1 Gbit/s" in text
    assert "eth1 carries the messages of rank 2" in text
    assert "its line rate is unknown" in text
    assert "loopback" not in text


def test_a_loopback_is_called_so():
    assert "one machine: this is its loopback" in found("lo", "lo").lines[-1]
    assert not found("lo", "eth0").is_loopback


@pytest.mark.parametrize(
    ("folder", "files", "expected"),
    [
        ("pci/lo", {"speed": "1000\n"}, 1e9),
        ("pci/lo", {"speed": "-1\n"}, None),
        ("pci/lo", {}, None),
        ("virtual/lo", {"speed": "10000\n"}, None),
        ("pci/lo", {"speed": "1000\n", "address": "02:00:00:00:00:01\n"}, None),
        ("pci/none", {"speed": "1000\n"}, None),
    ],
)
def test_a_line_rate_is_what_this_networks_own_device_says_or_unknown(
    folder, files, expected, tmp_path
):
    place = tmp_path / "devices" / folder
    place.mkdir(parents=True)
    for name, text in ({"address": "00:00:00:00:00:00\n"} | files).items():
        (place / name).write_text(text)
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "lo").symlink_to(place)
    assert line_rate(Path(folder).name, tmp_path / "class") == expected


def test_a_bad_fit_is_called_so():
    good = found("eth0", "eth0")
    network = good.network.model_copy(update={"median_fit_error": 0.35})
    assert "probe again" in replace(good, network=network).lines[-1]
    assert "probe again" not in "".join(good.lines)


def test_every_interface_is_counted():
    assert sent_by_interface()["lo"] >= 0


def test_one_rank_cannot_be_probed():
    with pytest.raises(ValueError, match="one rank, expected at least 2"):
        probe(SimpleNamespace(world_size=1), "mine")  # type: ignore[arg-type]


def test_without_a_launcher_it_says_how_to_start_it(monkeypatch, tmp_path):
    monkeypatch.delenv("RANK", raising=False)
    told = CliRunner().invoke(app, ["advise", "resnet50", "--probe", str(tmp_path / "a.toml")])
    assert told.exit_code == 2
    assert "torchrun --nnodes 2" in told.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--probe", "a.toml", "--network", "1gbe"], "--network: is what --probe finds out"),
        (["--hosts", "4", "--timeout-s", "9"], "--timeout-s: is for --probe"),
        ([], "--hosts: missing"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options, told):
    result = CliRunner().invoke(app, ["advise", "resnet50", *options])
    assert result.exit_code == 2
    assert told in result.output


def test_processes_find_the_interface_that_carries_their_messages():
    with Session(forked(), 2) as session:
        facts, other = session.call("tests.workers.lab.jobs:probed", {"longest_s": 0.02})
    assert other == {}
    assert [each["interface"] for each in facts["interfaces"]] == ["lo", "lo"]
    assert all(each["share"] > 0.9 for each in facts["interfaces"])
    assert facts["is_loopback"]
    assert 0 < facts["latency_s"] < 1
    assert min(facts["bandwidth_bits_per_s"], facts["both_ways_bits_per_s"]) > 1e6


@pytest.fixture
def launched(monkeypatch):
    """Rank 0 of two, whose probe is over at once."""
    worker = SimpleNamespace(rank=0, world_size=2)
    asked: list[tuple[object, ...]] = []

    def join_workers(*given: object) -> AbstractContextManager[SimpleNamespace]:
        asked.append(given)
        return nullcontext(worker)

    monkeypatch.setattr(command, "join_workers", join_workers)
    monkeypatch.setattr(command, "probe", lambda *_: found("eth0", "eth0"))
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    return asked


def test_rank_0_writes_a_network_file_and_advises_with_it(launched, tmp_path):
    file = tmp_path / "ours.toml"
    options = ["--probe", str(file), "--hosts", "4", "--timeout-s", "7", "--json"]
    done = CliRunner().invoke(app, ["advise", "resnet20-cifar", *options])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.output)
    assert facts["probe"]["bandwidth_bits_per_s"] == 941e6
    assert facts["network"] == str(file)
    assert facts["hosts"] == 4
    assert CalibratedNetwork.load(file).rate_bits_per_s == 941e6
    assert launched == [("cpu", "gloo", timedelta(seconds=7), {"--timeout-s": 7.0})]


def test_people_read_what_was_probed_and_as_many_hosts_as_there_are_ranks(launched, tmp_path):
    options = ["--probe", str(tmp_path / "ours.toml")]
    done = CliRunner().invoke(app, ["advise", "resnet20-cifar", *options])
    assert "Probed: eth0 carries the messages of ranks 0, 1" in done.output
    assert "of 2 (" in done.output


def test_a_model_that_is_none_is_refused_before_anything_is_probed(launched, tmp_path):
    done = CliRunner().invoke(app, ["advise", "resnet51", "--probe", str(tmp_path / "a.toml")])
    assert done.exit_code == 2
    assert "did you mean 'resnet50'?" in done.output
    assert launched == []


@pytest.mark.alone
def test_the_probed_rate_is_the_rate_of_the_labs_links():
    """A machine that is busy slows a link down, and nothing speeds it up: the best probe counts."""
    rate = 400e6
    payload = 1448 / 1514 * rate
    one_way, both_ways = [], []
    with ExitStack() as stack:
        try:
            lab = stack.enter_context(Lab(LabSpec(num_hosts=2, rate_bits_per_s=rate)))
        except LabError as error:
            pytest.skip(str(error))
        session = stack.enter_context(Session(lab, 2))
        for _ in range(5):
            facts, _ = session.call("tests.workers.lab.jobs:probed", {"longest_s": 0.25})
            one_way.append(facts["bandwidth_bits_per_s"] / payload)
            both_ways.append(facts["both_ways_bits_per_s"] / payload)
            if max(one_way) > 0.96 and max(both_ways) > 0.85:
                break
    assert 0.96 < max(one_way) < 1.04
    assert 0.85 < max(both_ways) < 1.03
    assert [each["interface"] for each in facts["interfaces"]] == ["eth0", "eth0"]
    assert [each["line_bits_per_s"] for each in facts["interfaces"]] == [None, None]
