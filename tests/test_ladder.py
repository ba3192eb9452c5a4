"""Ladders: named variants over densities, world sizes and seeds; resumed where they were left."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.runner import run_scenario
from dgc_topo.experiments.scenario import ScenarioError, load_scenario, parse_scenario
from dgc_topo.records.measurement import Measurement
from dgc_topo.records.quality import StalenessCounts
from dgc_topo.report.ladder import Ladder, compare_rungs, ladder_findings
from dgc_topo.report.ladder_plots import (
    curves_figure,
    density_figure,
    endings_figure,
    staleness_figure,
)
from dgc_topo.report.table import markdown_table

SCENARIOS = Path(__file__).parent.parent / "scenarios"
LADDER = """
name = "tiny-ladder"
[train]
dataset = "fashion-mnist-subset"
model = "mlp"
world_size = 2
batch_size_per_worker = 8
epochs = 2
max_steps_per_epoch = 4
learning_rate = 0.1
clip_norm = 0.5
workers = "virtual"
[compression]
densities = [0.1, 0.01]
warm_up = "none"
[[topologies]]
name = "ring"
[ladder]
seeds = [1, 2]
world_sizes = [2, 4]
baseline = "dense"
[[ladder.rungs]]
name = "dense"
densities = [1.0]
[[ladder.rungs]]
name = "naive"
accumulation = false
clipping = false
[[ladder.rungs]]
name = "full"
warm_up = "geometric"
warm_up_epochs = 1.0
"""


class Observer:
    """Counts what was run."""

    def __init__(self):
        self.planned, self.notes = [], []

    def moved(self, folder, aside):
        self.aside = aside

    def plan(self, jobs, left_out):
        self.planned, self.notes = jobs, left_out

    def event(self, event):
        pass

    def plan_predictions(self, total):
        raise AssertionError("a ladder predicts nothing")

    def predicted(self):
        raise AssertionError("a ladder predicts nothing")


def write(folder, text=LADDER) -> Path:
    path = Path(folder) / "tiny-ladder.toml"
    path.write_text(text)
    return path


def climb(path, **settings):
    observer = Observer()
    records = run_scenario(path, path.parent / "out", observer, **settings).measurements()
    return observer, records


def test_every_rung_runs_at_every_density_world_size_and_seed():
    jobs, left_out = plan_jobs(parse_scenario(LADDER))
    assert not left_out
    found = [(j.seed, j.train.world_size, j.rung, j.density) for j in jobs]
    rungs = [("dense", 1.0), ("naive", 0.1), ("naive", 0.01), ("full", 0.1), ("full", 0.01)]
    assert found == [(s, n, *rung) for n in (2, 4) for s in (1, 2) for rung in rungs]
    assert {j.train.world_size * j.train.batch_size_per_worker for j in jobs} == {16}
    assert len({j.key for j in jobs}) == len(jobs)


def test_a_rung_changes_what_it_names_and_nothing_else():
    naive, full = (j for j in plan_jobs(parse_scenario(LADDER))[0][1:4:2])
    assert not naive.compression.accumulation
    assert not naive.compression.clipping
    assert naive.compression.warm_up == "none"
    assert full.compression.accumulation
    assert full.compression.warm_up == "geometric"
    changed = {"accumulation", "clipping", "warm_up", "warm_up_epochs"}
    left, right = naive.compression.model_dump(), full.compression.model_dump()
    assert {key for key in left if left[key] != right[key]} == changed
    assert naive.train == full.train


@pytest.mark.parametrize("name", ["ladder-fashion-mnist", "ladder-austen"])
def test_shipped_ladders_add_one_part_per_rung(name):
    """Each rung differs from the one above in one part of DGC; all train alike."""
    jobs = plan_jobs(load_scenario(SCENARIOS / f"{name}.toml"))[0]
    one = [j for j in jobs if (j.seed, j.train.world_size, j.density) == (1, 4, 0.001)]
    parts = ("accumulation", "momentum_correction", "clipping", "masking", "warm_up")
    for number, (below, above) in enumerate(pairwise(one)):
        assert below.train == above.train
        different = [
            p for p in parts if getattr(below.compression, p) != getattr(above.compression, p)
        ]
        assert different == [parts[number]]
    assert len(one) == 6
    assert one[-1].compression.model_dump(include=set(parts)) == {
        "accumulation": True,
        "momentum_correction": True,
        "clipping": True,
        "masking": True,
        "warm_up": "paper",
    }
    assert {j.density for j in jobs} == {1.0, 0.01, 0.001}
    assert len({j.seed for j in jobs}) == 3


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            'baseline = "dense"',
            'baseline = "desne"',
            r"ladder: baseline = 'desne': .* dense, naive",
        ),
        (
            'baseline = "dense"',
            'baseline = "naive"',
            r"ladder.baseline = 'naive': expected the first dense rung, 'dense'",
        ),
        ("densities = [1.0]", "", r"expected the first dense rung, one with densities = \[1.0\]"),
        ("seeds = [1, 2]", "seeds = [1, 1]", r"ladder.seeds: 1 is there twice, expected each once"),
        (
            "accumulation = false",
            'method = "terngrad"',
            r"ladder.rungs.1: method 'terngrad' sends every element: expected densities \[1\]",
        ),
        (
            "densities = [1.0]",
            'densities = [1.0]\nmethod = "ddp"',
            r"ladder.rungs.0: method 'ddp' with train.workers = 'virtual': .* 'processes'",
        ),
        ('name = "full"', 'name = "naive"', r"ladder: rungs.2.name: 'naive' is that of another"),
        ("accumulation = false", "acumulation = false", r"ladder.rungs.1.acumulation: unknown key"),
        ("world_sizes = [2, 4]", "world_sizes = [3]", r"3 workers cannot share a global batch of"),
        ("seeds = [1, 2]", "seeds = []", r"ladder.seeds"),
        (
            "[ladder]",
            '[simulate]\nnetworks = ["1gbe"]\nworld_sizes = [2]\n[ladder]',
            r"ladder: .* expected no \[simulate\]",
        ),
    ],
)
def test_a_mistake_in_a_ladder_names_the_key(old, new, says):
    with pytest.raises(ScenarioError, match=says):
        parse_scenario(LADDER.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LADDER, "has world sizes of its own"),
        (LADDER.partition("[ladder]")[0], "one process runs all, expected 'processes'"),
    ],
    ids=["ladder", "virtual"],
)
def test_a_launcher_is_told_what_it_cannot_do(tmp_path, text, says):
    arguments = ["train", str(write(tmp_path, text)), "--topology", "ring"]
    result = CliRunner().invoke(app, arguments, env={"RANK": "0", "WORLD_SIZE": "1"})
    assert result.exit_code == 2
    assert says in result.output


@pytest.mark.slow
def test_a_ladder_goes_on_where_it_was_left(tmp_path):
    path = write(tmp_path)
    observer, first = climb(path, limit_s=0.0)
    assert len(observer.planned) == 20
    assert len(first) == 1  # the time is over after the first run
    observer, records = climb(path)
    assert len(observer.planned) == 19
    assert observer.notes == ["left out: 1 of 20 runs, which are there already"]
    assert records[0] == first[0]
    assert len({record.job for record in records}) == len(records) == 20
    observer, again = climb(path)
    assert not observer.planned
    assert again == records

    # Another seed: what is there is kept.  A seed less: its records are moved aside, not lost.
    more = LADDER.replace("seeds = [1, 2]", "seeds = [1, 2, 3]")
    observer, grown = climb(write(tmp_path, more), limit_s=0.0)
    assert len(observer.planned) == 10
    assert grown[:20] == records
    observer, fewer = climb(write(tmp_path, LADDER.replace("seeds = [1, 2]", "seeds = [2]")))
    assert not observer.planned
    assert {record.seed for record in fewer} == {2}
    assert len(list(tmp_path.glob("out-*"))) == 1


def finals(base: list[Measurement], **final: tuple[float, ...]) -> list[Measurement]:
    """Return records with given final accuracies per rung and seed."""
    like = base[0]
    assert like.quality is not None
    records = []
    for rung, values in final.items():
        for seed, value in enumerate(values):
            point = like.quality.points[-1].model_copy(update={"value": value})
            quality = like.quality.model_copy(update={"points": (point,)})
            dense = rung == "dense"
            update = {
                "rung": rung,
                "seed": seed,
                "quality": quality,
                "density": 1.0 if dense else 0.001,
                "compression": "dense" if dense else "dgc",
                "compressed_bytes": like.gradient_bytes / (1 if dense else 300),
                "diverged_at_step": 5 if math.isnan(value) else None,
            }
            records.append(like.model_copy(update=update))
    return records


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    """Return the records of one real run, to be altered."""
    return climb(write(tmp_path_factory.mktemp("one")), limit_s=0.0)[1]


def test_the_table_has_means_spreads_and_paired_differences(one_run):
    records = finals(
        one_run, dense=(0.90, 0.92, 0.91), naive=(0.60, 0.64, 0.62), full=(0.91, 0.92, 0.90)
    )
    table = compare_rungs(records)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["dense", "91.00 ± 1.00 %", "-", "1.00x"],
        ["naive", "62.00 ± 2.00 %", "-29.00 ± 1.00 %", "300x"],
        ["full", "91.00 ± 1.00 %", "+0.00 ± 1.00 %", "300x"],
    ]
    assert [h.detail for h in table.headings] == [
        "",
        "0.1 %, 2 workers",
        "0.1 %, 2 workers",
        "0.1 %",
    ]
    assert "| naive | 62.00 ± 2.00 %" in markdown_table(table)
    (line,) = ladder_findings(records)
    assert "its mean is no worse than the worst of 3 seeds of dense, 90.00 % (mean 91.00 %)" in line


def test_a_last_rung_below_every_dense_seed_is_called_worse(one_run):
    (line,) = ladder_findings(finals(one_run, dense=(0.90, 0.92), full=(0.90, 0.89)))
    assert "its mean is worse than the worst of 2 seeds of dense, 90.00 %" in line


def test_what_diverges_is_counted_and_left_out_of_the_mean(one_run):
    nan = math.nan
    records = finals(one_run, dense=(0.9, 0.9, 0.9), a=(0.5, nan, 0.5), b=(nan, nan, nan))
    rows = {row[0].text: [cell.text for cell in row[1:3]] for row in compare_rungs(records).rows}
    assert rows["a"] == ["50.00 ± 0.00 % (1 of 3 diverged)", "-40.00 ± 0.00 %"]
    assert rows["b"] == ["diverged", "-"]


def test_what_ends_with_no_number_counts_as_diverged(one_run):
    """A perplexity overflows long before a loss does."""
    inf = math.inf
    records = finals(one_run, dense=(90.0, inf), full=(91.0, 89.0))
    perplexity = []
    for record in records:
        assert record.quality is not None
        quality = record.quality.model_copy(update={"metric": "perplexity"})
        perplexity.append(record.model_copy(update={"quality": quality}))
    rows = {row[0].text: [c.text for c in row[1:3]] for row in compare_rungs(perplexity).rows}
    assert rows == {
        "dense": ["90.000 (1 of 2 diverged)", "-"],
        "full": ["90.000 ± 1.414", "+1.000"],
    }
    (line,) = ladder_findings(perplexity)
    assert "its mean is no worse than the worst of 1 seeds of dense, 90.0 (mean 90.0)" in line


def test_a_run_that_diverged_in_its_warm_up_says_nothing_of_the_compression(one_run):
    records = finals(one_run, dense=(0.9, 0.9), full=(0.8, math.nan))
    records[-1] = records[-1].model_copy(update={"compressed_bytes": records[-1].gradient_bytes})
    assert compare_rungs(records).rows[1][-1].text == "300x"


def test_records_without_rungs_are_no_ladder(one_run):
    with pytest.raises(ValueError, match="no records of rungs"):
        Ladder.of([record.model_copy(update={"rung": None}) for record in one_run])


@pytest.mark.parametrize("draw", [curves_figure, endings_figure, density_figure])
def test_figures_draw_every_rung_under_every_condition(one_run, draw):
    records = finals(one_run, dense=(0.9, 0.8), full=(0.7, 0.6))
    records += [r.model_copy(update={"num_workers": 8}) for r in records]
    figure = draw(records)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "0.1 %, 2 workers",
        "0.1 %, 8 workers",
    ]
    assert all(len(axes.lines) >= 2 for axes in figure.axes)


def test_staleness_is_drawn_as_shares_of_what_was_sent(one_run):
    """One of four had waited 1 step, three had waited 4 or more, whatever the seed."""
    counts = StalenessCounts(sent=(1, 0, 3, 0, 0), waiting=(0, 0, 0, 0, 9))
    records = finals(one_run, dense=(0.9, 0.8), full=(0.7, 0.6))
    records[2:] = [r.model_copy(update={"staleness": counts}) for r in records[2:]]
    (axes,) = staleness_figure(records).axes
    lines = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axes.lines}
    assert lines == {"dense": [], "full": [[1, 25], [2, 0], [4, 75]]}
