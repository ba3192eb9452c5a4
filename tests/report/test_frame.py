import subprocess
import sys

import pandas as pd
import pytest
from pydantic import BaseModel

from dgc_topo.records.configuration import measured
from dgc_topo.records.measurement import Quality, QualityPoint
from dgc_topo.report.frame import to_frame, to_quality_frame


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
    assert not frame.map(lambda value: isinstance(value, dict | tuple | BaseModel)).any(axis=None)


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
