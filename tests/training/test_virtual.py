"""Virtual workers do the arithmetic of real ones: same bits in parameters, metrics and sizes."""

import pytest
import torch
from pydantic import TypeAdapter

from dgc_topo.averaging import load_averaging
from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.scenario import Scenario, load_scenario
from dgc_topo.records.measurement import Measurement
from dgc_topo.training.checks import DivergedError
from dgc_topo.training.job import Job
from dgc_topo.training.launch import Evaluated, Event, Finished, StepDone, launch
from dgc_topo.training.loop import TrainingRun
from dgc_topo.training.rank import TrainingRank
from dgc_topo.training.world import VirtualWorld
from dgc_topo.workers import LaunchError
from tests.training.tiny import write_tiny

SAME = (
    *("quality", "parameters", "compressed_bytes", "wire_bytes_per_step", "messages_per_step"),
    *(
        "sparse",
        "staleness",
        "num_steps",
        "num_workers",
        "compression",
        "density",
        "gradient_bytes",
    ),
)


def jobs_of(folder, *topologies: str, train=None, compression=None, **settings) -> list[Job]:
    """Return the jobs of a tiny scenario, some of its keys replaced."""
    scenario = load_scenario(write_tiny(folder, *topologies, **settings))
    values = scenario.model_dump(by_alias=True)
    values["train"] |= train or {}
    values["compression"] |= compression or {}
    values["simulate"] = None  # nothing is predicted here
    return plan_jobs(Scenario.model_validate(values))[0]


def virtual(job: Job) -> Job:
    return job.model_copy(update={"train": job.train.model_copy(update={"workers": "virtual"})})


def run(jobs: list[Job]) -> list[Measurement]:
    records = []
    launch(jobs, lambda e: records.append(e.measurement) if isinstance(e, Finished) else None)
    return records


def run_here(job: Job, device: torch.device | None = None) -> Measurement:
    torch.set_num_threads(1)
    world = VirtualWorld(virtual(job), device or torch.device("cpu"))
    return TrainingRun(virtual(job), 0, world, lambda _: None).run()


def assert_equal(real: Measurement, found: Measurement) -> None:
    assert real.workers == "processes"
    assert found.workers == "virtual"
    assert real.parameters is not None
    for name in SAME:
        assert getattr(real, name) == getattr(found, name), (real.topology, real.density, name)


#: What the rungs of the shipped ladders change, and the other methods, below density 1.
RUNGS: tuple[dict[str, object], ...] = (
    {"accumulation": False, "momentum_correction": False, "clipping": False, "masking": False},
    {"momentum_correction": False, "clipping": False, "masking": False},
    {"clipping": False, "masking": False},
    {"masking": False},
    {"track_ages": True},
    {"warm_up": "geometric", "warm_up_epochs": 1.0},
    {"method": "random-k"},
)


@pytest.mark.slow
def test_four_virtual_workers_equal_four_real_ones(tmp_path):
    """Over topologies that sum in different orders; images, batch statistics, text, dropout."""
    topologies = ("ring", "parameter-server?server = 'dedicated'", "butterfly", "mesh")
    warm = {"warm_up": "paper", "warm_up_epochs": 1.0}
    jobs = jobs_of(tmp_path, *topologies, world_size=4, compression=warm)
    normalised = {"model": "resnet20", "options": {"width": 2}, "max_steps_per_epoch": 2}
    jobs += jobs_of(tmp_path, "tree", world_size=4, batch_size=2, epochs=1, train=normalised)
    text = {
        "dataset": "austen",
        "model": "char-lstm",
        "options": {"bptt": 8, "hidden_size": 4, "embedding_size": 4, "dropout": 0.3},
        "clip_norm": 0.25,
    }
    jobs += jobs_of(tmp_path, "ring", world_size=4, batch_size=2, epochs=1, train=text)
    clipped = {"train": {"clip_norm": 0.5}, "world_size": 4}
    for rung in RUNGS:
        jobs += jobs_of(tmp_path, "butterfly", densities=(0.02,), compression=rung, **clipped)
    terngrad = {"method": "terngrad"}
    jobs += jobs_of(tmp_path, "ring", densities=(1.0,), compression=terngrad, **clipped)
    shares = {"batch_shares": [4, 2, 2, 1]}
    jobs += jobs_of(tmp_path, "ring", world_size=4, batch_size=8, train=shares)
    assert len(jobs) == 22
    for real, job in zip(run(jobs), jobs, strict=True):
        assert_equal(real, run_here(job))


@pytest.mark.long
@pytest.mark.slow
def test_eight_virtual_workers_equal_eight_real_ones(tmp_path):
    jobs = jobs_of(tmp_path, "parameter-server", "butterfly", world_size=8, batch_size=4)
    for real, job in zip(run(jobs), jobs, strict=True):
        assert_equal(real, run_here(job))


def test_one_process_runs_them_and_tells_as_it_goes(tmp_path):
    """Jobs of several world sizes in one launch; events name the job's place in it."""
    (first,) = jobs_of(tmp_path, "ring", world_size=2, densities=(1.0,))
    (second,) = jobs_of(tmp_path, "ring", world_size=5, densities=(0.01,))
    events: list[Event] = []
    launch([virtual(first), virtual(second)], events.append)
    for number, size in enumerate((2, 5)):
        mine = [event for event in events if event.job == number]
        assert [e.epoch for e in mine if isinstance(e, Evaluated)] == [1, 2]
        steps = [e.step for e in mine if isinstance(e, StepDone)]
        assert steps[-1] == 12
        assert isinstance(mine[-1], Finished)
        assert mine[-1].measurement.num_workers == size


def test_its_times_are_those_of_one_process(tmp_path):
    (job,) = jobs_of(tmp_path, "ring", world_size=3, densities=(0.01,))
    record = run_here(job)
    assert record.workers == "virtual"
    assert record.phases.wait_s == 0
    assert record.solo_phases is not None
    assert record.solo_phases.communicate_s == 0
    # All three workers' turns make up a step.
    assert record.step_time_s > 2 * record.phases.compute_s
    tokens = record.samples_per_s * record.step_time_s
    assert tokens == pytest.approx(3 * job.train.batch_size_per_worker)


def test_a_run_that_diverges_is_a_record_that_says_so(tmp_path):
    (job,) = jobs_of(tmp_path, "ring", densities=(1.0,), epochs=5, train={"learning_rate": 1e30})
    record = run_here(job)
    assert record.diverged_at_step is not None
    assert 0 < record.diverged_at_step < 30
    assert record.num_steps == record.diverged_at_step
    assert record.quality is not None
    assert record.quality.final < 0.2
    adapter: TypeAdapter[Measurement] = TypeAdapter(Measurement)
    assert adapter.validate_json(record.model_dump_json()).diverged_at_step == (
        record.diverged_at_step
    )


def test_an_error_names_the_rank_and_not_its_place_among_workers(tmp_path):
    (job,) = jobs_of(tmp_path, "ring", densities=(1.0,))
    cpu = torch.device("cpu")
    rank = TrainingRank(virtual(job), 5, [5, 6], cpu)
    for parameter in rank.parameters.values():
        parameter.data.fill_(float("nan"))
    rank.begin_epoch(0)
    with pytest.raises(DivergedError, match="loss is nan on rank 5 at step 7"):
        rank.compute(None, 7)


#: Averaging rules with parameters of each rank's own, and topologies and densities for them.
LOCAL: tuple[tuple[str, str, float], ...] = (
    ("d-psgd", "gossip", 1.0),
    ("d-psgd:every=2", "gossip", 1.0),
    ("local-sgd:every=4", "ring", 1.0),
    ("diloco:every=4", "parameter-server?server = 'dedicated'", 1.0),
    ("sparse-loco:every=4,look_ahead=0.5", "butterfly", 0.02),
)


@pytest.mark.slow
def test_ranks_with_parameters_of_their_own_are_the_same_virtual_or_real(tmp_path):
    """Three workers, SGD and AdamW; the last round is not whole."""
    jobs = []
    for rule, topology, density in LOCAL:
        adamw = {"optimizer": "adamw", "learning_rate": 0.005} if "loco" in rule else {}
        (job,) = jobs_of(tmp_path, topology, densities=(density,), train=adamw)
        jobs.append(job.model_copy(update={"averaging": load_averaging(rule)}))
    for real, job in zip(run(jobs), jobs, strict=True):
        found = run_here(job)
        for name in SAME:
            assert getattr(real, name) == getattr(found, name), (job.label, name)
        assert (found.averaging, found.every) == (str(job.averaging), job.rule.every)
        assert (found.parameters is None) == job.topology.gossips
        assert found.quality is not None
        assert found.quality.final > 0.3


def test_ranks_whose_sums_differ_are_an_error(tmp_path):
    (tmp_path / "one_sided.py").write_text(
        "from dgc_topo.schedule import Schedule, reduce\n"
        "def schedule(world_size):\n"
        "    return Schedule.from_steps(world_size, 1, [reduce(1, 0)])\n"
    )
    jobs = jobs_of(tmp_path, str(tmp_path / "one_sided.py"), world_size=2, densities=(1.0,))
    with pytest.raises(LaunchError, match=r"sums of ranks \[1\] differ from that of rank 0"):
        launch([virtual(jobs[0])], lambda _: None)


def test_ages_are_recorded_for_all_workers_together_and_change_nothing_else(tmp_path):
    tracked, plain = (
        jobs_of(tmp_path, "ring", densities=(0.01,), compression={"track_ages": tracks})[0]
        for tracks in (True, False)
    )
    assert tracked.key == plain.key
    record, other = run_here(tracked), run_here(plain)
    assert record.parameters == other.parameters
    assert other.staleness is None
    assert record.staleness is not None
    assert record.sparse is not None
    assert sum(record.staleness.sent) == round(record.sparse.entries) * 12 * 3
    assert sum(record.staleness.waiting) == record.sparse.length * 3
