"""The plan of the AdamW benchmark: a fair search of learning rates, and every run once."""

import math
from dataclasses import asdict

import pytest
import torch

from benchmarks.adamw import (
    GRID,
    ROWS,
    SEEDS,
    WORKERS,
    Records,
    best_lr,
    missing,
    tried,
)
from benchmarks.adamw_methods import METHODS, Dense, PowerSGD
from benchmarks.char_transformer import Workers
from dgc_topo.sizes import entries_of

STEPS = 100


def record_of(job, loss):
    return {**asdict(job), "loss": loss, "bytes_per_step": 1.0}


def loss_at(job, best):
    return abs(math.log(job.lr / best))


@pytest.mark.parametrize("best", [*GRID, GRID[0] / 9, 9 * GRID[-1]])
def test_the_search_ends_at_the_best_learning_rate_with_its_neighbours_tried(best, tmp_path):
    records = Records(tmp_path / "records.jsonl")
    jobs = missing(STEPS, records)
    row = ROWS[0]
    while best_lr(row, STEPS, records) is None:
        job = next(jobs)
        assert job.lr not in tried(row, STEPS, records)
        records.add(record_of(job, loss_at(job, best)))
    found = best_lr(row, STEPS, records)
    assert found == min(GRID, key=lambda lr: abs(math.log(lr / best)))
    place = GRID.index(found)
    assert set(GRID[max(0, place - 1) : place + 2]) <= set(tried(row, STEPS, records))


def test_a_run_that_diverged_is_no_best(tmp_path):
    records = Records(tmp_path / "records.jsonl")
    jobs = missing(STEPS, records)
    while best_lr(ROWS[0], STEPS, records) is None:
        job = next(jobs)
        diverged = job.lr > GRID[3]
        records.add(record_of(job, math.nan if diverged else loss_at(job, 1.0)))
    assert best_lr(ROWS[0], STEPS, records) == GRID[3]


def test_a_stopped_benchmark_goes_on_and_runs_every_job_once(tmp_path):
    path, done = tmp_path / "records.jsonl", []
    for patience in (3, 40, 10_000):  # the last one is not stopped
        records = Records(path)
        for job, _ in zip(missing(STEPS, records), range(patience), strict=False):
            records.add(record_of(job, loss_at(job, 4e-3)))
            done.append(job.key())
    assert len(set(done)) == len(done)
    finals = len(ROWS) * len(SEEDS) * len(WORKERS)
    assert sum('"steps": 100' in key for key in done) == finals


def test_between_steps_the_model_holds_what_all_ranks_share():
    """Look-ahead is for the gradient only: with it or without, what was sent is what moved."""
    for name in ("update", "update, half ahead"):
        workers = Workers(2, 0, 8)
        method = METHODS[name](workers, 0.01, 0)
        before = {n: p.detach().clone() for n, p in workers.parameters.items()}
        method.step(1e-3)
        for n, parameter in workers.parameters.items():
            moved = int((parameter != before[n]).sum())
            most = 2 * entries_of(parameter.numel(), 0.01) if parameter.dim() > 1 else None
            assert 0 < moved <= (most or parameter.numel()), n


def test_powersgd_of_full_rank_is_dense():
    dense, low_rank = Workers(2, 0, 8), Workers(2, 0, 8)
    methods = Dense(dense), PowerSGD(low_rank, rank=512)
    for method in methods:
        method.step(1e-3)
    # Adam divides by the root of the second moment: compare what it saw.
    for name, parameter in dense.parameters.items():
        other = low_rank.parameters[name].grad
        torch.testing.assert_close(parameter.grad, other, rtol=1e-4, atol=1e-6)
