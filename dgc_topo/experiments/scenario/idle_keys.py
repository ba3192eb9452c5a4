"""Keys of a scenario that would decide nothing: each is refused, so that none is ignored."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from dgc_topo.experiments.scenario.simulate import SimulateSection
from dgc_topo.sizes import is_sparse
from dgc_topo.training.compression import CompressionSection

#: Of a step that [[simulate.workloads]] describe; what [train] measured brings its own.
_OF_WORKLOADS = (
    "dense_dtypes",
    "accumulation_steps",
    "encode_s_per_element",
    "decode_s_per_element",
    "union_exponent",
)
_OF_COMPRESSED = ("encode_s_per_element", "decode_s_per_element", "union_exponent")
#: What [compression] says that predictions of [[simulate.workloads]] go by.
_PREDICTED = ("method", "densities", "wire_dtype", "index_encoding", "scope")


def refuse_idle_keys(
    simulate: SimulateSection, compression: CompressionSection, *, trains: bool
) -> None:
    """Refuse what a scenario says of its predictions without any effect on them.

    Args:
        simulate: What is predicted.
        compression: What is sent.
        trains: Whether there is anything to train as well.

    Raises:
        ValueError: naming the key, and what would give it an effect.
    """
    if not simulate.workloads:
        for key in _said(simulate, _OF_WORKLOADS):
            raise ValueError(
                f"simulate.{key}: is for [[simulate.workloads]]; what [train] measures is "
                "predicted as it was trained, expected no such key"
            )
        return
    _refuse_other_methods(compression, trains=trains)
    if not any(map(is_sparse, compression.densities)):
        where = [f"simulate.{key}" for key in _said(simulate, _OF_COMPRESSED)]
        where += [
            f"simulate.workloads.{index}.union_exponent"
            for index, workload in enumerate(simulate.workloads)
            if workload.union_exponent is not None
        ]
        for key in where:
            raise ValueError(f"{key}: nothing is compressed, expected a density below 1")
    elif all(workload.union_exponent is not None for workload in simulate.workloads):
        for key in _said(simulate, ("union_exponent",)):
            raise ValueError(f"simulate.{key}: each workload has its own, expected no such key")
    if simulate.dense_dtypes and 1 not in compression.densities:
        raise ValueError("simulate.dense_dtypes: nothing is sent dense, expected a density of 1")


def _refuse_other_methods(compression: CompressionSection, *, trains: bool) -> None:
    """Refuse compression other than what workloads are predicted with: dense, and DGC's unions."""
    if compression.method != "dgc":
        raise ValueError(
            f"compression.method = {compression.method!r}: [[simulate.workloads]] are predicted "
            "dense and with 'dgc' only, expected 'dgc'"
        )
    if compression.merge != "union":
        raise ValueError(
            f"compression.merge = {compression.merge!r}: [[simulate.workloads]] are predicted with "
            "unions only, expected 'union'"
        )
    if not trains:
        idle = [key for key in CompressionSection.model_fields if key not in _PREDICTED]
        for key in _said(compression, idle):
            raise ValueError(
                f"compression.{key}: nothing is trained, expected [train] or no such key"
            )


def _said(section: BaseModel, keys: tuple[str, ...] | list[str]) -> Iterator[str]:
    """Yield those of the *keys* that are not as they are by default."""
    fields = type(section).model_fields
    return (key for key in keys if getattr(section, key) != fields[key].default)
