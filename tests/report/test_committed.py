"""Results committed by earlier versions are still read, and still mean what they meant."""

from pathlib import Path

import pytest

from dgc_topo.records.measurement import Measurement
from dgc_topo.records.records import load_measurements
from dgc_topo.wire.coding import FlatCoding

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
FILES = sorted(RESULTS.glob("2026-11-22-*/measurements.jsonl"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_records_from_before_the_wire_format_count_8_bytes_per_entry(path: Path):
    records = [Measurement.model_validate_json(line) for line in path.read_text().splitlines()]
    sparse = [(record, record.sparse) for record in records if record.sparse]
    assert sparse
    for record, sizes in sparse:
        assert sizes.coding == FlatCoding(8)
        expected = 8 * sizes.entries + 4 * sizes.dense_elements
        assert record.compressed_bytes == pytest.approx(expected)


def test_there_are_such_records():
    assert len(FILES) == 3


@pytest.mark.parametrize(
    "path", sorted(RESULTS.glob("*/measurements.jsonl")), ids=lambda path: path.parent.name
)
def test_every_committed_folder_is_read(path: Path):
    assert load_measurements(path.parent)
