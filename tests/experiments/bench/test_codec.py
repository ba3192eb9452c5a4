"""The benchmark of the codec measures the real step, and says so completely."""

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.codec import _Bench, _Codec, bench_codec
from benchmarks.codec_speed import app
from benchmarks.memory import peak_extra_bytes
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.local_step import PHASES
from tests.compression.workers import constant, sparse_of

CPU = torch.device("cpu")


def test_the_measured_phases_do_what_compress_does():
    bench = _Bench(6400, 4, 0.01, CPU)
    codec = _Codec(bench, DGCConfig(), None)
    rank = DGC(bench.gradients, num_workers=1, config=constant(density=0.01))
    for seed in range(3):
        bench.flat.normal_(generator=torch.Generator().manual_seed(seed))
        codec.step()
        assert codec.sent == sparse_of(rank.compress(bench.gradients)).num_entries == 64
    residuals = torch.cat([residual.flatten() for residual in rank.residuals().values()])
    assert codec.state.residual.equal(residuals)


def test_every_row_is_complete_and_adds_up():
    rows = [row for row in bench_codec([12_800], [1, 2], density=0.01) if row.device == "cpu"]
    ways = ["reused", "sampled", "plain sample", "torch.topk"]
    assert [(row.tensors, row.selection) for row in rows] == [(t, w) for t in (1, 2) for w in ways]
    for row in rows:
        assert tuple(row.phases) == PHASES
        assert all(seconds > 0 for seconds in row.phases.values())
        assert row.ratio_to_bound == row.total_s / row.bound_s
        assert row.sent == 128 or row.selection == "plain sample"


def test_json_has_one_object_per_row():
    command = ["--json", "--elements", "6400", "--tensors", "1", "--repeats", "1"]
    threads = torch.get_num_threads()
    try:
        result = CliRunner().invoke(app, command)
    finally:
        torch.set_num_threads(threads)
    facts = [json.loads(line) for line in result.output.splitlines()]
    assert result.exit_code == 0
    assert {"device", "elements", "total_s", "bound_s", "ratio_to_bound"} <= set(facts[0])
    assert {"idle_s", *(f"{phase}_s" for phase in PHASES)} <= set(facts[0])
    assert facts[0]["elements"] == 6400


@pytest.mark.parametrize("density", ["0", "1", "2", "nan"])
def test_a_density_that_is_none_is_refused(density):
    options = ("--elements", "6400", "--tensors", "1", "--repeats", "1", "--devices", "cpu")
    result = CliRunner().invoke(app, [*options, "--density", density])
    assert result.exit_code == 2
    assert f"density {density}, expected above 0" in result.output


def test_too_few_elements_are_refused():
    with pytest.raises(ValueError, match="expected at least 1, and 64 elements per tensor"):
        next(bench_codec([100], [2]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="this machine has no usable CUDA device"):
        next(bench_codec([6400], [1], devices="cuda"))


PEAK = """
import torch
from benchmarks.memory import peak_extra_bytes
print(peak_extra_bytes(lambda: torch.ones(16_000_000), torch.device("cpu")))
"""


def bytes_told_by(script: str) -> int:
    """Run a script in a process of its own, and return the number that it prints."""
    command = [sys.executable, "-c", script]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if told == "None":
        pytest.skip("this system does not tell a process' peak memory")
    return int(told)


def test_peak_memory_sees_what_is_freed_again():
    """In a process of its own: a kernel may reclaim what a long-lived one has not used lately."""
    assert 60e6 <= bytes_told_by(PEAK) < 90e6


CHANNELS_LAST = """
import torch
from benchmarks.memory import peak_extra_bytes
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.config import DGCConfig
parameters = {"w": torch.zeros(2048, 910, 3, 3), "v": torch.zeros(2048)}
compressor = DGC(parameters, num_workers=1, config=DGCConfig(warm_up="none"))
gradients = {"w": torch.randn(2048, 910, 3, 3), "v": torch.randn(2048)}
gradients["w"] = gradients["w"].contiguous(memory_format=torch.channels_last)
for _ in range(3):
    compressor.compress(gradients)
print(peak_extra_bytes(lambda: compressor.compress(gradients), torch.device("cpu")))
"""


def test_gradients_that_are_not_contiguous_need_no_copy_of_them_all():
    assert bytes_told_by(CHANNELS_LAST) <= 0.05 * 2 * 4 * 2048 * 910 * 9


@pytest.mark.slow
def test_a_step_needs_no_more_than_two_states_and_5_percent():
    # The promise for a large model in training: everything but gradient, velocity and residual.
    small = _Bench(640_000, 1, 0.001, CPU)
    small.flat.normal_()
    _Codec(small, DGCConfig(), None).step()  # loads code
    bench = _Bench(25_600_000, 54, 0.001, CPU)
    codec = _Codec(bench, DGCConfig(), None)
    codec.state.velocity.fill_(0)  # memory that is zero may not be there before it is written
    codec.state.residual.fill_(0)
    for _ in range(6):
        bench.flat.normal_(generator=bench._generator)
        extra = peak_extra_bytes(codec.step, CPU)
        if extra is None:
            pytest.skip("this system does not tell a process' peak memory")
        assert extra <= 0.05 * 2 * 4 * 25_600_000
