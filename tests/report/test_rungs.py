from math import inf, isfinite, nan

import numpy as np
import pytest

from dgc_topo.records.configuration import measured
from dgc_topo.records.quality import Quality, QualityPoint
from dgc_topo.report.ladder_plots import curves_figure, density_figure, endings_figure


def ladder(records, metric, diverged=(), **rungs):
    """Return records of rungs, each with one sequence of values per seed."""
    like = measured(records)[0]
    return [
        like.model_copy(
            update={
                "rung": rung,
                "seed": seed,
                "density": 1.0 if rung == "dense" else 0.001,
                "compression": "dense" if rung == "dense" else "dgc",
                "quality": Quality(
                    metric=metric,
                    points=tuple(
                        QualityPoint(epoch=epoch, step=100 * epoch, value=value, density=0.001)
                        for epoch, value in enumerate(values, start=1)
                    ),
                ),
                "diverged_at_step": 120 if (rung, seed) in diverged else None,
            }
        )
        for rung, seeds in rungs.items()
        for seed, values in enumerate(seeds)
    ]


def lines(axes, rung):
    """Return the points of a rung's lines, gaps left out."""
    (line,) = (line for line in axes.lines if line.get_label() == rung)
    return [(x, y) for x, y in np.asarray(line.get_xydata()).tolist() if isfinite(y)]


def texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def crosses(axes):
    """Return where crosses are drawn: how far into the panel, from 0 to 1, and in which row."""
    found: list[tuple[float, float]] = []
    for line in axes.lines:
        if line.get_marker() == "x":
            pixels = line.get_transform().transform(line.get_xydata())
            across = axes.transAxes.inverted().transform(pixels)[:, 0]
            found += zip(across.tolist(), line.get_ydata(), strict=True)
    return found


def test_what_diverged_is_marked_and_does_not_stretch_the_axis(records):
    """A model at 10 % beside others at 87 to 89 % would make one line of them."""
    figure = endings_figure(
        ladder(
            records,
            "accuracy",
            diverged={("b", 1), ("b", 2)},
            dense=[(0.88,), (0.89,)],
            a=[(0.87,), (0.88,)],
            b=[(0.88,), (0.1,), (0.1,)],
        )
    )
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    assert 86 < low < high < 90
    assert crosses(axes) == [pytest.approx((0.0, 2.0)), pytest.approx((0.04, 2.0))]
    assert texts(figure) == ["a seed that diverged"]


def test_without_divergence_there_is_no_legend_of_it(records):
    assert not texts(endings_figure(ladder(records, "accuracy", dense=[(0.8,)], a=[(0.7,)])))


@pytest.mark.parametrize("what", [inf, nan])
def test_values_that_are_no_numbers_are_gaps(records, what):
    """An infinite perplexity at the end, and one on the way."""
    some = ladder(
        records,
        "perplexity",
        dense=[(9.0, 4.0, 3.0), (9.0, 5.0, 3.5)],
        a=[(9.0, 4.0, 3.2), (9.0, 4.0, what)],
        b=[(9.0, what, 3.1), (9.0, 4.0, 3.3)],
    )
    figures = [draw(some) for draw in (curves_figure, endings_figure, density_figure)]
    curves, endings, densities = figures
    for figure in figures:
        figure.draw_without_rendering()
    assert lines(curves.axes[0], "a") == [(100, 9), (200, 4)]
    assert lines(curves.axes[0], "b") == [(100, 9), (300, pytest.approx(3.2))]
    assert 2 < curves.axes[0].get_ylim()[0] < curves.axes[0].get_ylim()[1] < 12
    assert 2.5 < endings.axes[0].get_xlim()[0] < endings.axes[0].get_xlim()[1] < 4
    assert crosses(endings.axes[0]) == [pytest.approx((1.0, 1.0))]
    assert len(lines(densities.axes[0], "b")) == 3


@pytest.mark.parametrize("draw", [curves_figure, endings_figure, density_figure])
@pytest.mark.parametrize("metric", ["accuracy", "perplexity"])
def test_a_ladder_without_any_number_draws_without_invented_ones(records, draw, metric):
    """No warning, no error, and no ticks where nothing is."""
    figure = draw(ladder(records, metric, dense=[(nan, inf)], a=[(inf,), (inf,)]))
    figure.draw_without_rendering()
    if draw is not density_figure:
        assert not list(figure.axes[0].get_xticks())


def test_perplexities_have_plain_labels(records):
    """More than one, and none such as 10^1."""
    figure = curves_figure(
        ladder(records, "perplexity", dense=[(12.0, 4.0)], a=[(20.0, 6.0)], b=[(11.0, 3.6)])
    )
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert {"5", "10", "20"} <= set(labels)
