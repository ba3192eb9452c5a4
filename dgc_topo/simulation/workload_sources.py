"""`load_workload`: workloads from zoo models, torch modules, counts or recorded runs."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgc_topo.python_files import CodeError, explained, load_function, split_name
from dgc_topo.records.measurement import Measurement, Phases
from dgc_topo.records.records import load_measurements
from dgc_topo.scalars import plain_float, plain_int
from dgc_topo.simulation.workload import ReadyLayer, Workload, ready_layer
from dgc_topo.sizes import FLOAT_BYTES
from dgc_topo.units import seconds_from
from dgc_topo.zoo import Model, known_models, load_model

if TYPE_CHECKING:
    from torch import nn

    Source = str | Path | nn.Module | Model | Measurement | Workload

_HOW_TO_MEASURE = (
    "expected the seconds of one forward and backward pass at your batch size; to measure them, "
    "run some steps of your own loop (on a GPU, call torch.cuda.synchronize() before each reading "
    "of time.perf_counter()) and take the median"
)


def load_workload(  # noqa: PLR0913 - one argument per fact that a source may lack
    source: Source | None = None,
    *,
    compute_s: float | str | None = None,
    batch_size: int | None = None,
    update_s: float | str | None = None,
    name: str | None = None,
    elements: int | None = None,
    dense_elements: int = 0,
    example: Any = None,
) -> Workload:
    """Return the workload of a model, a module, counts or a recorded run.

    Args:
        source: One of

            - the name of a model of the zoo, such as ``resnet50`` (see ``dgc-topo sizes``);
            - a `torch.nn.Module`, also on the meta device: its trainable parameters are sent;
            - ``file.py:NAME``: a module's class, or a function that returns one, without arguments;
              it is made on the meta device, so a model may be larger than memory;
            - a record of a training run, its results folder or its file of records: what a worker
              alone took, and when its gradients were ready;
            - a `Workload`, which the other arguments change;
            - nothing, with *elements*.
        compute_s: Seconds of one forward and backward pass, or a text such as ``0.21s``.  Models
            of the zoo and records have their own, unless you measured it.
        batch_size: Items per worker and pass; a model's own by default.
        update_s: Seconds of the optimizer step, if they are not included in *compute_s*.
        name: Name in reports.  If a results folder has several workloads, it chooses one.
        elements: Elements in tensors of two dimensions or more, of which DGC sends a fraction.
        dense_elements: Elements in biases and normalisations, which always travel dense.
        example: Input of a module: a tensor, or a tuple or dictionary of arguments.  Ready times
            then follow from the arithmetic of the layers, counted on the meta device.  Without it
            they follow from the layers' numbers of parameters, which is an approximation.

    Raises:
        ValueError: if there is no such source, or it lacks a value (the error names it).

    Example:
        >>> dt.load_workload("resnet50", compute_s=0.21, batch_size=64)
        Workload('resnet50', 102 MB in 54 layers, 210 ms for a batch of 64)
    """
    seconds = None if compute_s is None else _seconds(compute_s, "compute_s")
    update = None if update_s is None else _seconds(update_s, "update_s")
    if seconds is not None and not 0 < seconds < inf:
        raise ValueError(f"compute_s {compute_s}: expected above 0, and finite")
    if batch_size is not None:
        batch_size = plain_int("batch_size", batch_size, least=1)
    _check_fits(source, name, elements, dense_elements, example)
    if isinstance(source, str) and split_name(source) is not None:
        source = _module_from(source)
    if source is None:
        found = _of_counts(elements, dense_elements, seconds)
    elif is_module(source):
        found = _of_module(source, seconds, example)
    elif isinstance(source, str) and source in known_models():
        found = of_model(load_model(source), seconds, batch_size)
    elif isinstance(source, Model):
        found = of_model(source, seconds, batch_size)
    else:
        found = _recorded(source, name)
        found = found if seconds is None else found.lasting(seconds)
    return replace(
        found,
        name=name or found.name,
        update_s=found.update_s if update is None else update,
        batch_size=found.batch_size if batch_size is None else batch_size,
    )


def _check_fits(
    source: object, name: object, elements: object, dense_elements: object, example: object
) -> None:
    """Refuse arguments that mean nothing beside the others."""
    if name is not None and not isinstance(name, str):
        raise ValueError(f"name {name!r}: expected a text")
    if elements is not None and source is not None:
        raise ValueError("elements: the source has its own, expected one of both")
    if dense_elements != 0 and elements is None:
        raise ValueError("dense_elements: are given by counts alone, expected elements as well")
    is_named = isinstance(source, str) and split_name(source) is not None
    if example is not None and not (is_module(source) or is_named):
        raise ValueError("example: is for a torch module, expected one as source")


def of_model(
    model: Model, compute_s: float | None = None, batch_size: int | None = None
) -> Workload:
    """Return the workload of a model of the zoo, with its published compute time or a given one.

    Args:
        model: Model at its own batch size.
        compute_s: Seconds of both passes; without it the model's own, scaled to the batch.
        batch_size: Items per worker and pass.
    """
    if batch_size is not None:
        model = model.at_batch(batch_size)
    layers = [
        ready_layer(layer.name, ready_s, layer.tensors)
        for layer, ready_s in zip(model.layers, model.ready_times_s(), strict=True)
    ]
    own = model.compute
    found = Workload(
        model.forward_s,
        tuple(reversed(layers)),
        name=model.name,
        source=f"{model.summary}; compute {own.origin}: {own.hardware}, {own.source}",
        batch_size=model.batch_size,
        samples_per_item=model.samples_per_item,
        samples=model.samples,
    )
    if compute_s is None:
        return found
    return replace(found.lasting(compute_s), source=f"{model.summary}; compute given")


def of_record(record: Measurement) -> Workload:
    """Return the workload of a recorded run, from its lone worker's times and profile.

    Without a profile all gradients are ready at the end.

    Raises:
        ValueError: if the record lacks the phases of a worker alone.
    """
    phases, profile, sparse = lone_phases(record), record.profile, record.sparse
    batch_samples = record.samples_per_s * record.step_time_s / record.num_batches
    if profile is None:
        elements = record.gradient_bytes // FLOAT_BYTES
        dense = sparse.dense_elements if sparse else 0
        found = whole(phases.compute_s, elements - dense, dense)
    else:
        layers = tuple(
            ReadyLayer(each.name, each.ready_s, (each.compressible_elements,), each.dense_elements)
            for each in profile.layers
        )
        found = Workload(profile.forward_s, layers).lasting(phases.compute_s)
    return replace(
        found,
        name=record.workload,
        source=f"measured on {record.machine}",
        update_s=phases.update_s,
        batch_size=record.batch_size_per_worker,
        samples_per_item=batch_samples / record.batch_size_per_worker,
    )


def lone_phases(record: Measurement) -> Phases:
    """Return the phases of one worker alone, which communicates with nobody.

    Raises:
        ValueError: if the record has none.
    """
    if record.solo_phases is None:
        raise ValueError(
            f"record of {record.topology} at density {record.density:g}: has no solo_phases, "
            "expected a record of a training run"
        )
    # A scaled lab stands for a faster cluster, and so do predictions from it.
    solo, scale = record.solo_phases, record.time_scale
    return Phases.alone(
        compute_s=solo.compute_s / scale,
        compress_s=solo.compress_s / scale,
        update_s=solo.update_s / scale,
    )


def whole(compute_s: float, compressible_elements: int, dense_elements: int) -> Workload:
    """Return a workload whose gradients are all complete at the end.

    Args:
        compute_s: Seconds of both passes together.
        compressible_elements: Elements of all tensors that DGC compresses; they count as one.
        dense_elements: See `ReadyLayer`.
    """
    sizes = (compressible_elements,)
    return Workload(0.0, (ReadyLayer("model", compute_s, sizes, dense_elements),))


def is_module(source: object) -> bool:
    """Return True for a torch module, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.nn.Module)


def _of_counts(elements: int | None, dense_elements: int, compute_s: float | None) -> Workload:
    if elements is None:
        raise ValueError(
            "workload: nothing given, expected a model's name, a module, a record, or elements"
        )
    if compute_s is None:
        raise ValueError(f"compute_s: missing beside elements, {_HOW_TO_MEASURE}")
    compressible = plain_int("elements", elements, least=0)
    dense = plain_int("dense_elements", dense_elements, least=0)
    return replace(
        whole(compute_s, compressible, dense), source="as given, with a number of parameters only"
    )


def _module_from(name: str) -> nn.Module:
    """Return the module that ``file.py:NAME`` makes, on the meta device."""
    import torch  # noqa: PLC0415 - models of the zoo need none

    function = load_function(name)
    with explained(name, ", called without arguments"), torch.device("meta"):
        made = function()
    if not isinstance(made, torch.nn.Module):
        raise CodeError(f"{name}: made {type(made).__name__}, expected an nn.Module")
    return made


def _of_module(module: Any, compute_s: float | None, example: Any) -> Workload:
    if compute_s is None:
        raise ValueError(
            f"compute_s: missing for a module ({type(module).__name__}), {_HOW_TO_MEASURE}"
        )
    from dgc_topo.simulation.module_layers import layers_of  # noqa: PLC0415 - needs torch

    return layers_of(module, compute_s, example)


def _recorded(source: object, name: str | None) -> Workload:
    if isinstance(source, Workload):
        return source
    if isinstance(source, Measurement):
        return of_record(source)
    if not isinstance(source, str | Path):
        raise ValueError(  # noqa: TRY004 - as all that makes no sense
            f"workload {source!r}: expected a model's name, a torch module, a record, a results "
            "folder or a Workload"
        )
    if not str(source) or not Path(source).exists():
        close = difflib.get_close_matches(str(source), known_models(), n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(
            f"model {str(source)!r}: unknown{hint}; expected one of {', '.join(known_models())}, "
            "a results folder, or file.py:NAME"
        )
    if Path(source).suffix == ".py":
        raise ValueError(f"model {str(source)!r}: a Python file, expected the form file.py:NAME")
    return of_record(_typical(load_measurements(source), str(source), name))


def _typical(records: Sequence[Measurement], where: str, name: str | None) -> Measurement:
    """Return the record of a training whose worker alone computed for a median time."""
    alone = [record for record in records if record.kind == "measured" and record.solo_phases]
    names = sorted({record.workload for record in alone})
    if name is None and len(names) > 1:
        raise ValueError(f"{where}: has {', '.join(names)}; expected name = one of them")
    chosen = [record for record in alone if name in {None, record.workload}]
    if not chosen:
        wanted = f"of {name!r}" if name else "of a training run"
        raise ValueError(f"{where}: has no measured record {wanted}, expected at least one")
    chosen.sort(key=lambda record: lone_phases(record).compute_s)
    return chosen[len(chosen) // 2]


def _seconds(value: float | str, name: str) -> float:
    return seconds_from(value, name) if isinstance(value, str) else plain_float(name, value)
