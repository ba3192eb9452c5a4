"""Results as frames, and as one object for notebooks."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from pydantic import BaseModel

import dgc_topo
from dgc_topo.records.configuration import measured
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.frame import to_frame, to_quality_frame
from dgc_topo.records.measurement import SCHEMA_VERSION
from dgc_topo.records.quality import (
    LostRank,
    ModelFiles,
    Quality,
    QualityPoint,
    RankQuality,
    StalenessCounts,
)
from dgc_topo.records.records import ResultsError, load_measurements
from dgc_topo.report.results import load_results


def test_one_flat_row_per_record(records):
    frame = to_frame(records)
    assert len(frame) == len(records)
    first, record = frame.iloc[0], records[0]
    assert first["compression_ratio"] == record.compression_ratio
    assert first["scaling_efficiency"] == record.scaling_efficiency
    assert first["quality_final"] == record.quality.final
    assert first["wait_s"] == record.phases.wait_s
    assert first["options"] == "server=dedicated"
    assert first["solo_compute_s"] == record.solo_phases.compute_s
    assert frame.iloc[1]["sparse_entries"] == records[1].sparse.entries
    assert holds_plain_values(frame)


def holds_plain_values(frame):
    return not frame.map(lambda v: isinstance(v, dict | list | tuple | BaseModel)).any(axis=None)


def test_fields_that_few_records_have_are_plain_values_too(records):
    rare = {
        "models": ModelFiles(last="models/last.pt", best="models/best.pt"),
        "resumed_at": (12, 40),
        "lost_ranks": (LostRank(rank=3, step=20), LostRank(rank=1, step=30)),
        "batch_shares": (2, 2, 1, 2),
        "staleness": StalenessCounts(sent=(5, 6), waiting=(0, 1)),
    }
    frame = to_frame([records[0].model_copy(update=rare)])
    assert holds_plain_values(frame)
    row = frame.iloc[0]
    assert row["models_best"] == "models/best.pt"
    assert row["batch_shares"] == "2:2:1:2"
    assert row["resumed_at"] == "step 12, step 40"
    assert row["lost_ranks"] == "rank 3 at step 20, rank 1 at step 30"


def test_what_a_prediction_lacks_is_missing(records):
    frame = to_frame(records)
    assert frame[frame["kind"] == "predicted"]["quality_final"].isna().all()
    assert pd.api.types.is_float_dtype(frame["quality_final"])


def test_quality_has_one_row_per_evaluation(records):
    frame = to_quality_frame(records)
    assert len(frame) == 4 * len(measured(records))
    assert set(frame["epoch"]) == {1, 2, 3, 4}
    assert frame["metric"].unique() == ["accuracy"]
    assert set(frame["density"]) == {record.density for record in measured(records)}


def test_an_evaluation_tells_the_density_sent_from_the_one_configured(records):
    point = QualityPoint(epoch=1, step=10, value=0.5, density=0.25)
    quality = Quality(metric="accuracy", points=(point,))
    [record, *_] = [record for record in measured(records) if record.density == 0.001]
    frame = to_quality_frame([record.model_copy(update={"quality": quality})])
    assert frame[["density", "density_sent"]].to_numpy().tolist() == [[0.001, 0.25]]


def test_an_evaluation_tells_how_far_ranks_are_apart(records):
    ranks = RankQuality(lowest=0.25, mean=0.5, highest=0.75)
    point = QualityPoint(epoch=1, step=10, value=0.625, consensus_distance=1.5, ranks=ranks)
    quality = Quality(metric="accuracy", points=(point, QualityPoint(epoch=2, step=20, value=0.5)))
    frame = to_quality_frame([records[0].model_copy(update={"quality": quality})])
    columns = ["consensus_distance", "ranks_lowest", "ranks_mean", "ranks_highest"]
    assert frame[columns].iloc[0].tolist() == [1.5, 0.25, 0.5, 0.75]
    assert frame[columns].iloc[1].isna().all()


@pytest.mark.parametrize("make", [to_frame, to_quality_frame])
def test_no_records_give_the_same_columns(records, make):
    assert list(make([]).columns) == list(make(records).columns)


def test_results_need_no_torch_and_no_pyplot():
    code = (
        "import importlib, pkgutil, sys, dgc_topo.report as results\n"
        "for module in pkgutil.iter_modules(results.__path__, 'dgc_topo.report.'):\n"
        "    importlib.import_module(module.name)\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def folder(records, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = ResultsFolder.create(Path("results/mine"), 'name = "mine"\n', "mine")
    for record in records[:6]:
        made.append(record.model_copy(update={"topology": "a<b>"}))
    made.close()
    return made


def test_results_are_found_by_name_and_by_path(folder, tmp_path):
    for given in ("mine", "results/mine", folder.path.resolve(), folder.measurements_path):
        results = load_results(given)
        assert len(results) == len(list(results)) == 6
        assert len(results.measured) + len(results.predicted) == 6
        assert len(results.to_frame()) == 6
    assert repr(load_results("mine")) == "Results('results/mine': 6 measured, 0 predicted)"
    with pytest.raises(ResultsError, match="results/other: no such file"):
        load_results("other")


def test_results_show_their_table_and_write_their_report(folder):
    results = load_results("mine")
    shown = results._repr_html_()
    assert "a&lt;b&gt;" in shown
    assert "<b>" in shown  # the best of a column
    assert "compression ratio (own gradient)" in shown
    assert any(
        "Compression ratios are of one worker's own gradient" in x for x in results.findings()
    )
    assert results.report() == folder.report_path
    assert folder.report_path.is_file()


def test_results_are_drawn_by_name_all_records_or_some(folder):
    results = load_results("mine")
    whole, some = results.plot("wire-bytes"), results.plot("wire-bytes", results.measured[:1])
    assert len(whole.axes[0].patches) > len(some.axes[0].patches) == 1
    with pytest.raises(ValueError, match="plot 'bytes': unknown, expected one of quality, phases"):
        results.plot("bytes")


def test_findings_hold_the_claims_of_the_scenario(folder, tmp_path):
    lines = dgc_topo.run("dgc-paper-figure6", tmp_path / "paper", train=False).findings()
    assert any("Claimed by" in line for line in lines)


def test_results_are_read_without_large_libraries(folder):
    code = (
        "import sys; from dgc_topo.report.results import load_results\n"
        "assert len(load_results('mine')) == 6\n"
        "print(sorted({'torch', 'matplotlib', 'pandas', 'scipy', 'networkx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_newer_record_is_refused_and_an_older_one_is_read(folder):
    lines = [json.loads(line) for line in folder.measurements_path.read_text().splitlines()]
    assert {line["schema_version"] for line in lines} == {SCHEMA_VERSION}
    del lines[0]["schema_version"]
    folder.measurements_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert load_measurements(folder.path)[0].schema_version == 1
    lines[1] |= {"schema_version": SCHEMA_VERSION + 1, "new_key": 1}
    folder.measurements_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = f":2: schema_version {SCHEMA_VERSION + 1}: a newer dgc-topo wrote this record"
    with pytest.raises(ResultsError, match=re.escape(said)):
        load_results("mine")
