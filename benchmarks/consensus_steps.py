"""Consensus steps and masking of compressed gossip, on a small network; rules beside each other.

    python -m benchmarks.consensus_steps

An MLP on 8 virtual workers over a ring, 120 steps, data divided evenly and by label.  About five
minutes on one core.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.scenario import parse_scenario
from dgc_topo.training.job import Job
from dgc_topo.training.loop import TrainingRun
from dgc_topo.training.world import VirtualWorld

SCENARIO = """
name = "consensus-steps"
seed = 3
topologies = ["{topology}"]
averaging = "{rule}"
[train]
dataset = "fashion-mnist-subset"
model = "mlp"
world_size = 8
batch_size_per_worker = 16
epochs = 2
max_steps_per_epoch = 60
learning_rate = 0.03
workers = "virtual"
evaluate_ranks = true
{skew}
[compression]
densities = [{density}]
warm_up = "none"
"""
RING = "gossip:graph=ring"
COMPRESSED = (
    *(f"dgc-gossip:consensus_step={step}" for step in (0.05, 0.2, 0.5)),
    "dgc-gossip:consensus_step=0.2,masking=true",
    "choco:consensus_step=0.2",
)


def cases() -> Iterator[Job]:
    """Yield all runs, in the order of the table."""
    for skew in ("", "label_skew = 0.3"):
        rows = [("ring", "gradients", 1.0), (RING, "d-psgd", 1.0)]
        rows += [(RING, rule, density) for density in (0.01, 0.1) for rule in COMPRESSED]
        for topology, rule, density in rows:
            text = SCENARIO.format(topology=topology, rule=rule, density=density, skew=skew)
            yield from plan_jobs(parse_scenario(text))[0]


def main() -> None:
    """Print a row per run."""
    torch.set_num_threads(1)
    print("| data | rule | density | average model | own models | apart | bytes per step |")
    print("| :--- | :--- | ---: | ---: | ---: | ---: | ---: |")
    for job in cases():
        world = VirtualWorld(job, torch.device("cpu"))
        record = TrainingRun(job, 0, world, lambda _: None).run()
        assert record.quality is not None
        point = record.quality.points[-1]
        own = point.ranks and f"{point.ranks.lowest:.3f} to {point.ranks.highest:.3f}"
        apart = "" if point.consensus_distance is None else f"{point.consensus_distance:.2f}"
        data = "even" if job.train.label_skew is None else "by label"
        rule = "" if job.averaging is None else str(job.averaging)
        print(
            f"| {data} | {rule} | {job.density:g} | {point.value:.3f} | {own or ''} | {apart} | "
            f"{record.wire_bytes_per_step:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
