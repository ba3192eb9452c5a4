"""Records of trainings: what they say of many steps."""

from dataclasses import replace

import pytest

import dgc_topo as dt
from dgc_topo.training import loop
from dgc_topo.training.record import make_measurement
from tests.training.test_virtual import jobs_of, run_here, virtual


@pytest.mark.parametrize(
    ("topology", "rule", "expected_s"),
    [
        ("ring", "gradients", 1.0),  # all steps are alike: the slow ones were disturbed
        ("gossip:graph=ring", "d-psgd", 1.0),
        ("gossip:graph=one-peer-exponential", "d-psgd", 3.0),  # every third peer is a slow one
        ("ring", "local-sgd:every=3", 3.0),
        ("ring", "local-sgd:every=1,participation=0.75", 3.0),
        ("ring", "local-sgd:every=1,left_out=3@4", 3.0),
    ],
)
def test_a_step_takes_the_mean_of_steps_that_differ_by_design(
    topology, rule, expected_s, tmp_path, monkeypatch
):
    (job,) = jobs_of(tmp_path, "ring", densities=(1.0,), epochs=1, steps=6)
    update = {
        "topology": dt.load_topology(topology),
        "averaging": dt.load_averaging(rule),
        "train": job.train.model_copy(update={"world_size": 4, "batch_size_per_worker": 4}),
    }
    seen = []

    def spy(*arguments):
        seen.append(arguments)
        return make_measurement(*arguments)

    monkeypatch.setattr(loop, "make_measurement", spy)
    run_here(virtual(job.model_copy(update=update)))
    ((job, world, found),) = seen
    times_s = [1.0, 1.0, 1.0, 1.0, 7.0, 1.0] if expected_s > 1 else [1.0] * 5 + [13.0]
    records = [
        [
            replace(
                step, compute_s=s, compress_s=0, communicate_s=0, wait_s=0, update_s=0, others_s=0
            )
            for step, s in zip(rank, times_s, strict=True)
        ]
        for rank in found.records
    ]
    record = make_measurement(job, world, replace(found, records=records))
    assert record.step_time_s == pytest.approx(expected_s)
