import numpy as np
import pytest
from rich.console import Console

from dgc_topo.records.configuration import Configuration, measured, predicted
from dgc_topo.report.comparison import compare
from dgc_topo.report.findings import findings
from dgc_topo.report.plots import step_time_figure
from dgc_topo.report.summary import prediction_notes
from dgc_topo.report.table import markdown_table, rich_table
from dgc_topo.units import bytes_text, percent_text, seconds_text, times_text
from tests.report.synthetic import TOPOLOGIES


def column(comparison, group, name):
    (index,) = (i for i, h in enumerate(comparison.headings) if (h.group, h.name) == (group, name))
    return [row[index] for row in comparison.rows]


def printed(comparison, width):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(rich_table(comparison, width))
    return capture.get()


def test_columns_say_what_was_measured_and_what_was_predicted(records):
    headings = compare(records).headings
    assert [(h.group, h.name, h.detail) for h in headings] == [
        ("", "Topology", ""),
        ("", "Density", ""),
        ("measured", "final accuracy", ""),
        ("measured", "wire bytes per step", "4 ranks"),
        ("measured", "compression ratio", "own gradient"),
        ("measured", "step time here", "4 ranks"),
        ("predicted 1gbe", "step time", "4 ranks"),
        ("predicted 1gbe", "speed-up", "64 ranks"),
        ("predicted ib-edr", "step time", "4 ranks"),
        ("predicted ib-edr", "speed-up", "64 ranks"),
    ]
    assert all(heading.meaning for heading in headings)


def test_one_row_per_topology_and_density_with_units(records):
    comparison = compare(records)
    assert len(comparison.rows) == 2 * len(TOPOLOGIES)
    assert [cell.text for cell in comparison.rows[8]] == [
        "butterfly (algorithm=doubling, order=far)",
        "dense",
        "85.7 %",
        "1.97 MB",
        "1.00x",
        "25.6 ms",
        "30.9 ms",
        "21.9x (34%)",
        "13.3 ms",
        "60.5x (94%)",
    ]


def test_the_fastest_of_a_column_is_marked(records):
    times = column(compare(records), "measured", "step time here")
    assert [cell.text for cell in times if cell.best] == ["22.6 ms"]
    speedups = column(compare(records), "predicted 1gbe", "speed-up")
    assert [cell.text for cell in speedups if cell.best] == ["46.4x (73%)"]
    qualities = column(compare(records), "measured", "final accuracy")
    assert not any(cell.best for cell in qualities)  # a tenth of a point is no victory


def test_seeds_are_averaged_with_their_spread(records):
    first = measured(records)[0]
    assert first.quality is not None
    point = first.quality.points[-1]
    runs = []
    for seed, value in enumerate((0.80, 0.82)):
        quality = first.quality.model_copy(
            update={"points": (point.model_copy(update={"value": value}),)}
        )
        runs.append(first.model_copy(update={"seed": seed, "quality": quality}))
    comparison = compare(runs)
    assert len(comparison.rows) == 1
    assert column(comparison, "measured", "final accuracy")[0].text == "81.0 ± 1.4 %"


def test_predictions_of_several_seeds_are_averaged(records):
    ring = [r for r in predicted(records) if r.topology == "ring" and r.compression == "dense"]
    slower = [r.model_copy(update={"seed": 2, "step_time_s": 3 * r.step_time_s}) for r in ring]
    (row,) = compare([*ring, *slower]).rows
    assert row[4].text == "85.0 ms"  # at 64 ranks, the largest
    line = step_time_figure([*ring, *slower]).axes[0].lines[0]
    assert np.asarray(line.get_xdata()).tolist() == [4, 8, 16, 32, 64]


def test_simulation_only_has_no_measured_column(records):
    comparison = compare(predicted(records))
    groups = {heading.group for heading in comparison.headings}
    assert groups == {"", "predicted", "predicted 1gbe", "predicted ib-edr"}
    assert column(comparison, "predicted", "wire bytes per step")[0].text == "82.7 MB"  # 63 x 1.31


def test_what_is_missing_shows_as_missing(records):
    some = [r for r in records if r.kind == "measured" or r.topology == "ring"]
    cells = column(compare(some), "predicted 1gbe", "step time")
    assert {cell.text for cell in cells} == {"-", "31.0 ms", "17.7 ms"}
    assert compare([]).rows == ()


def test_several_world_sizes_get_a_column_of_ranks(records):
    more = [r.model_copy(update={"world_size": 8}) for r in measured(records)]
    comparison = compare([*records, *more])
    assert [cell.text for cell in column(comparison, "", "Ranks")][:4] == ["4", "8", "4", "8"]
    # each row shows the prediction for its own size
    assert column(comparison, "predicted 1gbe", "step time")[0].text == "48.6 ms"
    assert column(comparison, "predicted 1gbe", "step time")[1].text == "95.9 ms"


@pytest.mark.parametrize("width", [80, 100, 124, 200])
def test_cells_are_never_broken(records, width):
    text = printed(compare(records), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for row in compare(records).rows:
        assert all(cell.text in text for cell in row[1:])


def test_one_table_where_it_fits_and_parts_where_it_does_not(records):
    comparison = compare(records)
    assert printed(comparison, 200).count("Topology") == 1
    assert printed(comparison, 80).count("Topology") == 3


def test_markdown_has_the_same_cells(records):
    comparison = compare(records)
    heading, rule, *lines = markdown_table(comparison).splitlines()
    assert "| predicted 1gbe: speed-up (64 ranks) |" in heading
    assert rule.startswith("| :--- | :--- | ---: |")
    for line, row in zip(lines, comparison.rows, strict=True):
        assert [text.strip(" *") for text in line.strip("|").split("|")] == [c.text for c in row]
    assert "**22.6 ms**" in lines[2]


def test_dense_runs_by_other_rules_are_neither_named_dense_nor_what_others_are_compared_with(
    records,
):
    usual = next(r for r in records if r.topology == "ring" and r.compression == "dense")
    sparse = next(r for r in records if r.topology == "ring" and r.compression == "dgc")
    rules = {
        "local-sgd:every=4": 4,
        "updates": 1,
        "gradients": 1,
        "d-psgd:participation=0.5": 1,
        "d-psgd:left_out=1@4": 1,
    }
    others = [
        usual.model_copy(update={"averaging": rule, "every": every, "wire_bytes_per_step": 1})
        for rule, every in rules.items()
        if rule != "gradients"
    ]
    plain = usual.model_copy(update={"averaging": "gradients"})
    labels = [Configuration.of(record).density_label for record in (plain, *others)]
    assert labels == ["dense", *(f"{rule}, dense" for rule in rules if rule != "gradients")]
    first = findings([plain, sparse, *others])[0]
    assert first == findings([plain, sparse])[0]
    assert first.startswith("Measured: dgc 0.1 % sends ")


def test_findings_answer_the_questions(records):
    lines = findings(records)
    assert lines[0] == (
        "Measured: dgc 0.1 % sends 244x to 488x fewer bytes than dense on the same topology and "
        "changes final accuracy by -0.3 percentage points."
    )
    assert lines[1].startswith(
        "Measured here, 4 ranks on loopback: sharded-parameter-server, dense"
    )
    assert "Predicted for 1gbe, 64 ranks: fastest is gossip" in lines[2]
    assert "1.43x the throughput of the best dense one" in lines[2]
    assert "compression does not pay there" in lines[3]
    assert findings([]) == []
    other = [r.model_copy(update={"workload": "other"}) for r in predicted(records)]
    apart = findings([*predicted(records), *other])
    assert [line.split(", 64 ranks")[0] for line in apart] == [
        "Predicted for 1gbe, cnn on fashion-mnist (invented)",
        "Predicted for 1gbe, other",
        "Predicted for ib-edr, cnn on fashion-mnist (invented)",
        "Predicted for ib-edr, other",
    ]
    assert all(line.startswith("Predicted") for line in findings(predicted(records)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (bytes_text(0), "0 B"),
        (bytes_text(999), "999 B"),
        (bytes_text(999_999), "1.00 MB"),
        (bytes_text(1_313_064), "1.31 MB"),
        (bytes_text(5e15), "5,000 TB"),
        (seconds_text(0), "0 s"),
        (seconds_text(0.0123), "12.3 ms"),
        (seconds_text(3e-5), "30.0 µs"),
        (seconds_text(4e-8), "0.04 µs"),
        (seconds_text(float("inf")), "inf s"),
        (times_text(497.4), "497x"),
        (percent_text(0.001), "0.1 %"),
        (percent_text(0.0625), "6.25 %"),
    ],
)
def test_numbers_have_units(text, expected):
    assert text == expected


def a_pair(records, **changes):
    """Return a dense ring's run and predictions, and the same with changes and another seed."""
    ring = [r for r in records if r.topology == "ring" and r.compression == "dense"]
    return ring, [r.model_copy(update={"seed": 2} | changes) for r in ring]


@pytest.mark.parametrize(
    ("changes", "heading", "texts"),
    [
        ({"batch_size_per_worker": 64}, "Batch", ["32", "64"]),
        ({"scenario": "another"}, "Scenario", ["synthetic-test-data", "another"]),
        ({"gradient_bytes": 4000}, "Gradient", ["1.31 MB", "4.00 kB"]),
        ({"workload": "another"}, "Workload", ["cnn on fashion-mnist (invented)", "another"]),
        ({"seed": 1}, "Topology", ["ring", "ring #2"]),  # twice the same is no other seed
        ({"bucket_bytes": 1e6, "overlap": True}, "Topology", ["ring", "ring #2"]),
    ],
)
def test_only_what_differs_in_nothing_but_its_seed_is_averaged(records, changes, heading, texts):
    ring, others = a_pair(records, step_time_s=99.0, **changes)
    for found in ([*ring, *others], predicted([*ring, *others])):
        comparison = compare(found)
        assert len(comparison.rows) == 2
        assert [cell.text for cell in column(comparison, "", heading)] == texts
        assert "Seeds" not in {heading.name for heading in comparison.headings}
        times = [cell.text for cell in column(comparison, "predicted 1gbe", "step time")]
        assert times[1] == "99.0 s"
        assert times[0] != "99.0 s"
    lines = step_time_figure([*ring, *others]).axes[0].lines
    assert len(lines) == 2


def test_measured_runs_under_other_conditions_are_not_averaged(records):
    for changes in ({"network": "lab"}, {"workers": "virtual"}, {"time_scale": 10.0}):
        ring, others = a_pair(measured(records), **changes)
        assert len(compare([*ring, *others]).rows) == 2


def test_the_table_says_of_how_many_seeds_a_row_is_the_mean(records):
    ring, others = a_pair(records)
    tree = [r for r in records if r.topology == "tree" and r.compression == "dense"]
    comparison = compare([*tree, *ring, *others])
    assert [cell.text for cell in column(comparison, "", "Seeds")] == ["1", "2"]


def test_findings_compare_only_steps_of_the_same_work(records):
    small = measured(records)
    large = [
        r.model_copy(update={"batch_size_per_worker": 64, "step_time_s": 9 * r.step_time_s})
        for r in records
    ]
    lines = findings([*records, *large])
    assert len([line for line in lines if line.startswith("Measured here")]) == 2
    assert len([line for line in lines if line.startswith("Predicted for 1gbe")]) == 2
    assert sum("batch 64" in line for line in lines) == 3
    assert lines[0] == findings(small)[0]


def test_findings_compare_throughput_where_runs_timed_lone_workers_differently(records):
    """A run on a busy machine has a slow lone worker, so a large speed-up and few samples/s."""
    dense, busy = (
        next(r for r in predicted(records) if r.topology == "ring" and r.is_dense is is_dense)
        for is_dense in (True, False)
    )
    solo = dense.solo_phases or dense.phases.model_copy(update={"communicate_s": 0, "wait_s": 0})
    slow = solo.model_copy(update={"compute_s": 4 * solo.compute_s})
    here = {"world_size": 64, "network": "1gbe", "samples_per_s": 1000.0, "solo_phases": solo}
    pair = [
        dense.model_copy(update=here | {"speedup": 20.0}),
        busy.model_copy(
            update=here | {"solo_phases": slow, "samples_per_s": 900.0, "speedup": 60.0}
        ),
    ]
    assert "fastest is ring, dense, 20.0x" in findings(pair)[0]
    elsewhere = [record.model_copy(update={"network": "ib-edr"}) for record in pair]
    warnings = [note for note in prediction_notes([*pair, *elsewhere]) if "unsteady" in note]
    assert len(warnings) == 1  # of the runs, however many networks they are predicted for
    pair[1] = pair[1].model_copy(update={"samples_per_s": 1500.0, "solo_phases": solo})
    assert "1.50x the throughput of the best dense one" in findings(pair)[0]
    assert not any("busy or unsteady" in note for note in prediction_notes(pair))
