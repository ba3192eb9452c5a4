"""Measurements as pandas data frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import BaseModel

from dgc_topo.records.configuration import Configuration
from dgc_topo.records.measurement import Measurement, Phases, SparseSizes
from dgc_topo.records.quality import ModelFiles, QualityPoint, RankQuality

if TYPE_CHECKING:
    import pandas as pd


class _Nothing(BaseModel):
    """Record without fields, in place of a missing nested record."""


#: Fields that are records themselves, with the prefix of their columns.
_NESTED: dict[str, tuple[str, type[BaseModel]]] = {
    "phases": ("", Phases),
    "solo_phases": ("solo_", Phases),
    "crowd_phases": ("crowd_", Phases),
    "sparse": ("sparse_", SparseSizes),
    "models": ("models_", ModelFiles),
}
#: Fields left out: they hold several values, or are shown as a label.
_LEFT_OUT = (
    "options",
    "profile",
    "quality",
    "staleness",
    "resumed_at",
    "lost_ranks",
    "batch_shares",
)
_PLAIN = [name for name in Measurement.model_fields if name not in {*_NESTED, *_LEFT_OUT}]
_COLUMNS = [
    *_PLAIN,
    "configuration",
    "options",
    "resumed_at",
    "lost_ranks",
    "batch_shares",
    *(f"{prefix}{name}" for prefix, model in _NESTED.values() for name in model.model_fields),
    "compression_ratio",
    "scaling_efficiency",
    "quality_metric",
    "quality_final",
]
_QUALITY = ["configuration", "topology", "options", "averaging", "compression", "density"]
_QUALITY += ["world_size", "seed"]
_RANKS = [f"ranks_{name}" for name in RankQuality.model_fields]
_POINT = ["metric", "epoch", "step", "value", "train_loss", "density_sent"]
_POINT += ["consensus_distance", *_RANKS]


def to_frame(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """Return one row per record, one flat column per fact.

    Columns are the record's fields, then as labels ``configuration``, ``options``, ``resumed_at``
    (such as "step 120"), ``lost_ranks`` (such as "rank 3 at step 40") and ``batch_shares`` (such as
    "2:2:1"), the phases in seconds (``solo_``: of one worker alone, ``crowd_``: of all at once),
    the sizes of sparse gradients (``sparse_``), the models' files (``models_``),
    ``compression_ratio``, ``scaling_efficiency``, ``quality_metric`` and ``quality_final``.  What a
    record lacks is NaN or None.
    """
    import pandas as pd  # noqa: PLC0415  # records are read without it

    rows = [_row(record) for record in measurements]
    return pd.DataFrame(rows, columns=_COLUMNS)


def to_quality_frame(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """Return one row per evaluation: quality and training loss after each epoch.

    ``density`` is the configured one, ``density_sent`` that of the epoch (see warm-up).  Where each
    rank has parameters of its own, ``consensus_distance`` says how far apart they are, and
    ``ranks_lowest``, ``ranks_mean`` and ``ranks_highest`` how good, if that was measured.
    """
    import pandas as pd  # noqa: PLC0415  # records are read without it

    rows = [
        {
            **{name: value for name, value in _row(record).items() if name in _QUALITY},
            "metric": record.quality.metric,
            **_point(point),
        }
        for record in measurements
        if record.quality
        for point in record.quality.points
    ]
    return pd.DataFrame(rows, columns=[*_QUALITY, *_POINT])


def _point(point: QualityPoint) -> dict[str, object]:
    ranks = (point.ranks or _Nothing()).model_dump()
    return {
        **point.model_dump(exclude={"density", "ranks"}),
        "density_sent": point.density,
        **{f"ranks_{name}": value for name, value in ranks.items()},
    }


def _row(record: Measurement) -> dict[str, object]:
    configuration = Configuration.of(record)
    nested = {
        f"{prefix}{key}": value
        for name, (prefix, _) in _NESTED.items()
        for key, value in (getattr(record, name) or _Nothing()).model_dump().items()
    }
    return {
        **{name: getattr(record, name) for name in _PLAIN},
        "configuration": configuration.label,
        "options": configuration.options_label,
        "resumed_at": ", ".join(f"step {step}" for step in record.resumed_at),
        "batch_shares": ":".join(map(str, record.batch_shares)),
        "lost_ranks": ", ".join(
            f"rank {lost.rank} at step {lost.step}" for lost in record.lost_ranks
        ),
        **nested,
        "compression_ratio": record.compression_ratio,
        "scaling_efficiency": record.scaling_efficiency,
        "quality_metric": record.quality.metric if record.quality else None,
        "quality_final": record.quality.final if record.quality else None,
    }
