"""The trace of a step: valid, complete, and nobody does two things at once on one row."""

import json
from itertools import groupby, pairwise

import pytest

from dgc_topo.network import load_fabric
from dgc_topo.report.draw import step_figure
from dgc_topo.simulation import load_workload
from dgc_topo.simulation.training import (
    Codec,
    ComputeFactors,
    LognormalJitter,
    TrainingStep,
    simulate_training_step,
    spans_of,
    write_chrome_trace,
)
from dgc_topo.topology import load_topology


def result(world_size=4, topology="ring", **options):
    step = TrainingStep(
        workload=load_workload("resnet50", update_s=0.01),
        codec=Codec(encode_s_per_element=1e-9, decode_s_per_element=5e-10),
        bucket_bytes=10 * 2**20,
        accumulation_steps=2,
        compute_factors=ComputeFactors(jitter=LognormalJitter(0.1)),
    )
    schedule = load_topology(topology, options).schedule(world_size)
    return simulate_training_step(step, schedule, load_fabric("10gbe"))


def test_the_trace_is_json_whose_rows_never_overlap(tmp_path):
    simulated = result()
    write_chrome_trace(simulated, tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert {event["cat"] for event in events} == {"compute", "compress", "communicate", "update"}

    def row(event):
        return event["pid"], event["tid"]

    rows = {key: list(group) for key, group in groupby(sorted(events, key=row), key=row)}
    assert set(rows) == {(rank, row) for rank in range(4) for row in (0, 1)}
    for events in rows.values():
        ordered = sorted(events, key=lambda event: event["ts"])
        for before, after in pairwise(ordered):
            assert before["ts"] + before["dur"] <= after["ts"] * (1 + 1e-9)
    last = max(event["ts"] + event["dur"] for event in rows[0, 0])
    assert last <= 1e6 * simulated.step_time_s * (1 + 1e-9)
    names = {event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"}
    assert names == {"rank 0", "rank 1", "rank 2", "rank 3", "processor", "network"}


def test_the_spans_of_a_rank_are_its_phases():
    simulated = result(world_size=1)
    spent = dict.fromkeys(("compute", "compress", "communicate", "update"), 0.0)
    for span in spans_of(simulated, 0):
        spent[span.kind] += span.end_s - span.start_s
    phases = simulated.phases
    assert spent["compute"] == pytest.approx(phases.compute_s)
    assert spent["compress"] == pytest.approx(phases.compress_s)
    assert spent["update"] == pytest.approx(phases.update_s)


def test_a_dedicated_server_has_no_compute_row():
    simulated = result(3, "parameter-server", server="dedicated")
    server = next(rank for rank in range(3) if rank not in simulated.workers)
    assert {span.kind for span in spans_of(simulated, server)} == {"communicate"}


def test_the_figure_shows_every_rank():
    figure = step_figure(result())
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2", "3"]
    assert len(step_figure(result(), ranks=[2], title="one").axes[0].get_yticks()) == 1


def test_too_many_ranks_need_a_choice(tmp_path):
    many = result(65)
    with pytest.raises(ValueError, match="65 ranks, expected a choice"):
        write_chrome_trace(many, tmp_path / "trace.json")
    with pytest.raises(ValueError, match="rank 65, expected 0 to 64"):
        write_chrome_trace(many, tmp_path / "trace.json", ranks=[65])
