"""`dt.sweep` and `dt.Sweep` with their pictures, findings and page; `dgc-topo report`."""

import pytest
from typer.testing import CliRunner

import dgc_topo as dt
from dgc_topo.cli.main import app
from dgc_topo.records.records import ResultsError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweeps") / "small"
    dt.sweep(
        ["ring", "butterfly"], [2, 4], "1gbe", "resnet110-cifar",
        bandwidth=dt.spread("100Mbit/s", "10Gbit/s", 3), density=[1.0, "0.1%"], codec="1ms",
        output=path, processes=0,
    )  # fmt: skip
    return path


def test_a_sweep_draws_and_says_what_it_found(folder):
    found = dt.Sweep.load(folder)
    assert isinstance(found, dt.Sweep)
    assert repr(found) == f"Sweep({str(folder)!r}: 24 training steps)"
    assert [axes.get_title(loc="left") for axes in found.plot("time").axes] == [
        "2 ranks", "4 ranks"
    ]  # fmt: skip
    frame = found.to_frame()
    assert len(found.plot("time", frame[frame["world_size"] == 4]).axes) == 1
    assert any("fastest is" in line for line in found.findings())
    with pytest.raises(ValueError, match="plot 'speed': unknown, expected one of time"):
        found.plot("speed")


def test_a_sweep_writes_its_page_into_its_folder(folder):
    page = dt.Sweep.load(folder).report()
    assert page == folder / "report.html"
    text = page.read_text(encoding="utf-8")
    assert "24 predicted" in text
    assert "Machine" not in text  # made in Python: nothing was kept but the records
    with pytest.raises(ResultsError, match="the sweep is in memory, expected a folder"):
        dt.sweep("ring", 2, "1gbe", "resnet110-cifar", processes=0).report()
    with pytest.raises(ResultsError, match=r"sweep\.jsonl: a file, expected a folder"):
        dt.Sweep.load(folder / "sweep.jsonl").report()


def test_the_report_command_takes_a_sweeps_folder(folder):
    (folder / "report.html").unlink(missing_ok=True)
    shown = CliRunner().invoke(app, ["report", str(folder)])
    assert shown.exit_code == 0, shown.output
    assert "fastest is" in shown.output
    assert (folder / "report.html").is_file()
    table = CliRunner().invoke(app, ["report", str(folder), "--markdown"])
    assert table.exit_code == 0
    assert table.output.startswith("| model | network | ranks | fastest |")
