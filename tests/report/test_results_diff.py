"""Two results side by side: what changed is found, and nothing else is called a change."""

import json

import pytest
from typer.testing import CliRunner

import dgc_topo as dt
from dgc_topo.cli.main import app
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.report.results_diff import diff_results
from tests.report.synthetic import measurements

SCENARIO = """\
name = "synthetic-test-data"
description = "{description}"
[[networks]]
name = "1gbe"
latency_us = {latency}
"""


def made(path, records, *, description="first", latency=50):
    text = SCENARIO.format(description=description, latency=latency)
    folder = ResultsFolder.create(path, text, "synthetic-test-data", records=records)
    folder.close()
    return dt.load_results(path)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The second run's tree at 0.1 % is twice as slow on 1gbe, and it lacks the mesh."""
    path, records = tmp_path_factory.mktemp("results"), measurements()
    later = [
        record.model_copy(update={"step_time_s": 2 * record.step_time_s})
        if (record.topology, record.density, record.network) == ("tree", 0.001, "1gbe")
        else record
        for record in records
        if record.topology != "mesh"
    ]
    return made(path / "a", records), made(path / "b", later, latency=60)


def command(*arguments, status=0):
    result = CliRunner().invoke(app, ["results", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


def test_results_do_not_differ_from_themselves(two):
    same = two[0].diff(two[0])
    assert not same.changed
    assert not same.settings
    assert not same.only_before
    assert not same.only_after
    assert len(same.changes) > 100


def test_what_changed_is_found_with_both_values(two):
    found = diff_results(*two)
    assert {each.run for each in found.changed} == {"tree, dgc 0.1 %"}
    assert [each.place for each in found.changed if each.quantity == "step time"] == [
        f"predicted on 1gbe, {ranks} ranks" for ranks in (4, 8, 16, 32, 64)
    ]
    factors = {(each.quantity, each.ratio_text) for each in found.changed}
    assert factors == {("step time", "2.00x"), ("speed-up", "0.50x")}
    assert all(each.ratio in (pytest.approx(2), pytest.approx(0.5)) for each in found.changed)
    assert found.settings == (("networks[1gbe].latency_us", "50", "60"),)
    assert len(found.only_before) == 22  # 2 measured, 20 predicted
    assert not found.only_after
    assert all(label.startswith("mesh") for label in found.only_before)


def test_seeds_are_averaged_and_their_spread_is_said(tmp_path):
    first = next(r for r in measurements() if r.kind == "measured")
    seeds = [
        first.model_copy(update={"seed": seed, "step_time_s": 0.010 + 0.001 * seed})
        for seed in (1, 2, 3)
    ]
    found = diff_results(made(tmp_path / "a", [first]), made(tmp_path / "b", seeds))
    (time,) = (each for each in found.changes if each.quantity == "step time")
    assert time.after == pytest.approx((0.011, 0.012, 0.013))
    assert time.after_text == "12.0 ms ± 1.00 ms"


def test_frames_and_notebooks_show_the_same(two):
    found = two[0].diff(two[1])
    frame = found.to_frame()
    assert len(frame) == len(found.changes)
    assert set(frame.loc[frame.ratio > 1.5, "quantity"]) == {"step time"}
    assert found._repr_html_().count("<tr>") == len(found.changed) + len(found.settings) + 2
    assert f"10 of {len(frame)} common numbers changed" in repr(found)


def test_the_command_prints_it(two):
    before, after = (str(each.path) for each in two)
    shown = command("diff", before, after)
    assert "predicted on 1gbe, 64 ranks" in shown.stdout
    assert "only before: mesh, dense; measured here, 4 ranks" in shown.stdout
    assert "setting networks[1gbe].latency_us: 50 -> 60" in shown.stdout
    rows = json.loads(command("diff", before, after, "--json").stdout)
    assert rows["settings"] == [{"key": "networks[1gbe].latency_us", "before": "50", "after": "60"}]
    pasted = command("diff", before, after, "--markdown", "--all").stdout.splitlines()
    assert len(pasted) == 2 + len(two[0].diff(two[1]).changes)
    refused = command("diff", before, after, "--markdown", "--json", status=2)
    assert "one of them at most" in refused.stderr


def test_the_list_names_folders_and_leaves_out_others(two, tmp_path):
    (two[0].path.parent / "notes").mkdir(exist_ok=True)
    shown = command("list", str(two[0].path.parent)).stdout
    assert "synthetic-test-data" in shown
    assert "notes" not in shown
    assert "no results folder in it" in command("list", str(tmp_path), status=2).stderr
    assert "no such folder" in command("list", str(tmp_path / "x"), status=2).stderr
    assert "x" in command("diff", str(tmp_path / "x"), str(two[0].path), status=2).stderr
