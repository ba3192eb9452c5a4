"""Every row of a sweep is what the single call gives for the row's settings."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dgc_topo as dt
from dgc_topo.experiments.sweep.rows import SweptCollective, SweptStep
from dgc_topo.simulation.training import Codec

TOPOLOGIES = ["ring", "butterfly", "tree", "parameter-server", "mesh", "gossip:graph=ring"]
SETTINGS = [
    "topology",
    "world_size",
    "workload",
    "network",
    "bandwidth_bytes_per_s",
    "latency_s",
    "density",
    "num_bytes",
    "overlap",
    "bucket_bytes",
    "wire_dtype",
    "accumulation_steps",
    "hosts_per_rack",
    "oversubscription",
    "slow_host_factor",
    "slow_rank_factor",
]
STEP = [
    "step_time_s",
    "utilisation",
    "speedup",
    "scaling_efficiency",
    "samples_per_s",
    "communication_s",
    "exposed_share",
    "compute_s",
    "compress_s",
    "exposed_s",
    "wait_s",
    "update_s",
]
LAST = ["bytes_per_rank", "bound_by", "engine", "skipped"]


def some(values, most):
    return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True)


def one(*values):
    return st.sampled_from(values)


steps = st.fixed_dictionaries(
    {
        "topology": some(TOPOLOGIES, 2).filter(lambda chosen: chosen != ["gossip:graph=ring"]),
        "world_size": some([2, 3, 4, 8], 2),
        "workload": one("resnet110-cifar", "resnet50"),
        "network": one("1gbe", "ib-edr"),
        "density": one(0.1, 0.01).map(lambda density: [1.0, density]),
    },
    optional={
        "bandwidth": one("100Mbit/s", 1e9),
        "latency": one("1us", 1e-4),
        "overlap": st.booleans(),
        "wire_dtype": one("float32", "float16"),
        "accumulation_steps": one(1, 3),
        "every": one(1, [1, 7]),
        "hosts_per_rack": one(1, 2, 3),
        "slow_host_bandwidth_factor": some([1, 0.5], 2),
        "slow_rank_compute_time_factor": some([1, 2], 2),
        "codec": one("4ms", {"encode_s_per_element": 1e-10}),
        "union_exponent": one(0.0, 0.5, 1.0),
        "index_encoding": one("auto", "int32"),
        "num_steps": st.just(2),
        "jitter": st.just(0.1),
    },
).filter(lambda axes: not (axes.get("overlap") and axes.get("every") == [1, 7]))


def network_file(row, folder: Path) -> str:
    """Return a network file that says what a row says of its network, written by hand."""
    kind = "star" if row.hosts_per_rack is None else "racks"
    lines = [
        f'kind = "{kind}"',
        f"bandwidth_gbit_per_s = {row.bandwidth_bytes_per_s * 8e-9!r}",
        f"latency_us = {row.latency_s * 1e6!r}",
    ]
    if row.hosts_per_rack is not None:
        lines.append(f"hosts_per_rack = {row.hosts_per_rack}")
        lines.append(f"oversubscription = {row.oversubscription!r}")
    if row.slow_host_factor != 1:
        slow = f"host = {row.world_size - 1}, bandwidth_factor = {row.slow_host_factor!r}"
        lines.append(f"slow_hosts = [{{ {slow} }}]")
    file = folder / "network.toml"
    file.write_text("\n".join(lines))
    return str(file)


def single(row, axes, folder) -> dt.StepSimulation:
    sparse = row.density < 1
    codec = axes.get("codec")
    if isinstance(codec, dict):
        codec = Codec(**codec)
    return dt.simulate_step(
        row.workload,
        row.topology,
        network_file(row, folder),
        world_size=row.world_size,
        density=row.density,
        overlap=row.overlap,
        bucket_bytes=row.bucket_bytes,
        accumulation_steps=row.accumulation_steps,
        every=row.every,
        codec=codec if sparse else None,
        jitter=axes.get("jitter", 0.0),
        slow_ranks={row.world_size - 1: row.slow_rank_factor},
        union_exponent=axes.get("union_exponent") if sparse else None,
        index_encoding=axes.get("index_encoding", "auto"),
        wire_dtype=row.wire_dtype,
        num_steps=axes.get("num_steps"),
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(axes=steps)
def test_a_row_is_the_single_call_with_its_settings(axes, tmp_path):
    for row in dt.sweep(**axes, processes=0):
        assert isinstance(row, SweptStep)
        if row.skipped:
            compressed_gossip = row.topology.startswith("gossip") and row.density < 1
            assert compressed_gossip or (row.overlap and row.every > 1), row.skipped
            continue
        expected = single(row, axes, tmp_path).as_dict()
        for name in STEP:
            if name in expected:
                assert getattr(row, name) == pytest.approx(expected[name], rel=1e-9, abs=1e-12)
        assert row.bytes_per_rank == pytest.approx(expected["bytes_per_rank"])
        assert row.num_bytes == expected["num_bytes"]


@pytest.mark.parametrize("density", [1.0, 0.01])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_collective_is_the_single_call(topology, density):
    found = dt.sweep(topology, [2, 5], "10gbe", num_bytes=["1MB", 5e7], density=density)
    assert len(found) == 4
    for row in found:
        assert isinstance(row, SweptCollective)
        expected = dt.simulate(
            topology, "10gbe", row.num_bytes, world_size=row.world_size, density=density
        )
        assert row.time_s == expected.time_s
        assert row.busbw_bytes_per_s == expected.busbw_bytes_per_s
        assert row.lower_bound_s == expected.lower_bound_s
        assert row.bound_by == expected.bound_by


def test_columns_of_steps_and_of_collectives_are_these():
    step = dt.sweep("ring", 2, "1gbe", "resnet50").to_frame()
    assert list(step) == [*SETTINGS, "every", "averaging", *STEP, *LAST]
    collective = dt.sweep("ring", 2, "1gbe", num_bytes="1MB").to_frame()
    results = ["time_s", "busbw_bytes_per_s", "lower_bound_s"]
    assert list(collective) == [*SETTINGS, *results, *LAST]
    assert step.hosts_per_rack.isna().all()
    assert step.dtypes[["hosts_per_rack", "bucket_bytes", "step_time_s"]].eq("float64").all()


def test_every_combination_has_one_row_and_the_topology_changes_slowest():
    frame = dt.sweep(
        ["ring", "tree"], [2, 4, 8], ["1gbe", "10gbe"], "resnet50", density=[1, 0.01]
    ).to_frame()
    keys = frame[["topology", "world_size", "density", "network"]]
    assert len(keys.drop_duplicates()) == len(frame) == 24
    assert frame.topology.tolist() == ["ring"] * 12 + ["tree"] * 12
    assert frame.world_size.tolist() == 2 * ([2] * 4 + [4] * 4 + [8] * 4)


def test_numbers_of_the_network_are_in_the_rows_where_it_has_one():
    fabric, lab = dt.sweep("ring", 4, ["10gbe", "ib-edr"], "resnet50")
    assert (fabric.bandwidth_bytes_per_s, fabric.latency_s) == (1.177e9, 12.5e-6)
    assert (lab.bandwidth_bytes_per_s, lab.latency_s) == (10.3e9, 0.475e-6)
    [racks] = dt.sweep("ring", 4, "10gbe", "resnet50", hosts_per_rack=2, oversubscription=4)
    assert (racks.hosts_per_rack, racks.oversubscription) == (2, 4)
    [other] = dt.sweep("ring", 4, dt.load_cluster("10gbe", 4), "resnet50")
    assert other.bandwidth_bytes_per_s is None


def test_a_files_racks_are_the_base_of_other_racks(tmp_path):
    file = tmp_path / "racks.toml"
    file.write_text('kind = "racks"\nhosts_per_rack = 2\nbase = "1gbe"\noversubscription = 4\n')
    frame = dt.sweep("ring", 8, str(file), "resnet50", oversubscription=[4, 1]).to_frame()
    own_s, wide_s = frame.step_time_s
    assert own_s == dt.simulate_step("resnet50", "ring", str(file), world_size=8).step_time_s
    assert wide_s < own_s
    assert frame.network.eq(str(file)).all()
    assert frame.hosts_per_rack.eq(2).all()


def test_a_slow_host_is_that_of_the_last_rank(tmp_path):
    file = tmp_path / "gpus.toml"
    file.write_text('kind = "star"\nbase = "1gbe"\ngpus_per_host = 2\n')
    slow = "slow_hosts = [{ host = 1, bandwidth_factor = 0.25 }]\n"
    other = tmp_path / "slow.toml"
    other.write_text(file.read_text() + slow)
    frame = dt.sweep("ring", 4, str(file), "resnet50", slow_host_bandwidth_factor=0.25).to_frame()
    expected = dt.simulate_step("resnet50", "ring", str(other), world_size=4)
    assert frame.step_time_s.tolist() == [expected.step_time_s]


def power_of_two(folder: Path) -> str:
    file = folder / "power.py"
    file.write_text(
        "from dgc_topo import Schedule, load_topology\n"
        "def schedule(world_size: int) -> Schedule:\n"
        "    if world_size & (world_size - 1):\n"
        "        raise ValueError(f'{world_size} ranks, expected a power of two')\n"
        "    return load_topology('ring').schedule(world_size)\n"
    )
    return str(file)


def test_what_cannot_be_is_a_row_with_the_reason(tmp_path):
    found = dt.sweep(
        [power_of_two(tmp_path), "gossip"], range(2, 6), "1gbe", "resnet50", density=[1, 0.1]
    )
    assert len(found) == 16
    reasons = {(row.topology[:6], row.world_size, row.density): row.skipped for row in found}
    for (topology, world_size, density), reason in reasons.items():
        if topology == "gossip":
            assert ("averages parameters" in reason) == (density < 1)
        else:
            assert ("expected a power of two" in reason) == (world_size in {3, 5})
    frame = found.to_frame()
    assert (frame.skipped != "").sum() == len(found.skipped) == 8
    assert frame[frame.skipped != ""].step_time_s.isna().all()
    assert frame[frame.skipped == ""].step_time_s.gt(0).all()


@pytest.mark.parametrize("load", [{"workload": "resnet50"}, {"num_bytes": "1MB"}])
def test_values_of_few_bits_are_skipped_where_all_elements_are_sent(load):
    found = dt.sweep("ring", 4, "1gbe", density=[1, 0.01], wire_dtype=["float32", "int8"], **load)
    skipped = [(row.density, row.wire_dtype, row.skipped) for row in found if row.skipped]
    assert [reason[:2] for reason in skipped] == [(1.0, "int8")]
    assert "wire_dtype 'int8' is for selected entries" in skipped[0][2]
    assert "expected one of float32, float16" in skipped[0][2]


def test_steps_that_fail_only_when_they_are_made_are_skipped(tmp_path):
    file = tmp_path / "late.py"
    file.write_text(
        "from dgc_topo import Schedule, load_topology\n"
        "def schedule(world_size: int) -> Schedule:\n"
        "    ring = load_topology('ring').schedule(world_size)\n"
        "    def steps(ranks):\n"
        "        if world_size == 3:\n"
        "            raise ValueError('not three')\n"
        "        yield from ring.steps_of(ranks)\n"
        "    return Schedule(world_size, ring.num_chunks, steps)\n"
    )
    two, three = dt.sweep(str(file), [2, 3], "1gbe", "resnet50")
    assert not two.skipped
    assert "not three" in three.skipped


def test_a_network_that_is_too_small_skips_its_world_sizes(tmp_path):
    file = tmp_path / "four.toml"
    file.write_text('kind = "star"\nbase = "1gbe"\nnum_hosts = 4\n')
    fits, not_ = dt.sweep("ring", [4, 8], str(file), "resnet50")
    assert not fits.skipped
    assert "8 ranks on 4 hosts" in not_.skipped
    with pytest.raises(ValueError, match=r"nothing can be predicted.*8 ranks on 4 hosts"):
        dt.sweep("ring", 8, str(file), "resnet50")


RULES = ["gradients", "diloco:every=5", "local-sgd:every=3", "d-psgd", "no-loco:every=4"]


def test_averaging_rules_are_those_of_the_single_call():
    found = dt.sweep(
        ["ring", "gossip"],
        4,
        "1gbe",
        "resnet50",
        averaging=RULES,
        density=[1.0, 0.1],
        jitter=0.1,
        num_steps=2,
        processes=0,
    )
    assert len(found) == 2 * 2 * len(RULES)
    for row in found:
        assert isinstance(row, SweptStep)
        assert row.averaging is not None
        rule = dt.load_averaging(row.averaging)
        assert row.every == rule.every
        fits = rule.compresses or row.density == 1
        fits = fits and rule.refusal_of(dt.load_topology(row.topology)) is None
        assert fits == (not row.skipped), row.skipped
        if fits:
            expected = dt.simulate_step(
                "resnet50",
                row.topology,
                "1gbe",
                world_size=4,
                density=row.density,
                averaging=rule,
                jitter=0.1,
                num_steps=2,
            )
            assert row.step_time_s == pytest.approx(expected.step_time_s, rel=1e-12)
            assert row.bytes_per_rank == expected.bytes_per_rank
    usual = dt.sweep("ring", 4, "1gbe", "resnet50", every=[1, 7], processes=0)
    said = dt.sweep(
        "ring", 4, "1gbe", "resnet50", averaging=["gradients", "local-sgd:every=7"], processes=0
    )
    apart = {"job", "averaging"}
    assert [row.model_dump(exclude=apart) for row in usual] == [
        row.model_dump(exclude=apart) for row in said
    ]
    assert {row.job for row in usual}.isdisjoint(row.job for row in said)
