"""Command ``dgc-topo sizes``: bytes of a zoo model's gradient, as a table or one JSON object."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.table import Table

from dgc_topo.cli.console import clear_errors, console, naming_options, print_json
from dgc_topo.cli.options import AsJson, Fraction
from dgc_topo.sizes import (
    FLOAT_BYTES,
    compressed_sizes,
    count_elements,
    count_entries,
    dgc_bytes,
    is_compressed,
)
from dgc_topo.units import bytes_text, seconds_text, three_digits, times_text
from dgc_topo.wire.coding import DENSE_BYTES, INDEX_CHOICES, WIRE_DTYPES, WireCoding
from dgc_topo.wire.limits import HEADER_BYTES

if TYPE_CHECKING:
    from dgc_topo.zoo import Layer, Model

#: Option of each of the library's arguments, for errors.
_OPTIONS = {
    "density": "--density",
    "bytes_per_element": "--bytes-per-element",
    "coding: index_encoding": "--index-encoding",
    "coding: wire_dtype": "--wire-dtype",
}


def sizes(
    model: Annotated[str, typer.Argument(help="model of the zoo, such as resnet50")],
    density: Fraction = 0.001,
    bytes_per_element: Annotated[
        float, typer.Option(help="value and index; the DGC paper's code: 6")
    ] = 6,
    index_encoding: Annotated[
        str, typer.Option(help="of this library's messages: " + ", ".join(INDEX_CHOICES))
    ] = "auto",
    wire_dtype: Annotated[
        str, typer.Option(help="of values in them: " + ", ".join(WIRE_DTYPES))
    ] = "float32",
    as_json: AsJson = False,
) -> None:
    """Print the bytes of a model's gradient on the wire, dense and compressed by DGC."""
    from dgc_topo.zoo import load_model

    with clear_errors(), naming_options(_OPTIONS):
        wire = WireCoding.named(index_encoding, wire_dtype)
        coding = GradientCoding(density=density, bytes_per_element=bytes_per_element, wire=wire)
        print_sizes(load_model(model), coding, as_json=as_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientCoding:
    """Coding of a gradient by DGC: the fraction that is sent, and the bytes of each sent element.

    Attributes:
        density: Fraction of the compressed tensors' elements that is sent.
        bytes_per_element: Bytes of a value with its index, as the DGC paper counts them.
        wire: Coding of this library's real messages.
    """

    density: float
    bytes_per_element: float
    wire: WireCoding


def describe_sizes(model: Model, coding: GradientCoding) -> dict[str, object]:
    """Return the sizes as one object for JSON, in bytes per worker and step.

    Raises:
        ValueError: if the coding makes no sense.
    """
    total = model.dgc_bytes(coding.density, coding.bytes_per_element)
    return {
        "model": model.name,
        "density": coding.density,
        "bytes_per_element": coding.bytes_per_element,
        "num_elements": model.num_elements,
        "gradient_bytes": model.gradient_bytes,
        "compressed": _tensor_class(model, coding, compressed=True),
        "dense": _tensor_class(model, coding, compressed=False),
        "total_bytes": total,
        "compression_ratio": model.gradient_bytes / total,
        "message": {
            "index_encoding": coding.wire.index_encoding,
            "wire_dtype": coding.wire.wire_dtype,
            "header_bytes": HEADER_BYTES,
            "expected_bytes": _message_bytes(model, coding),
            "compression_ratio": model.gradient_bytes / _message_bytes(model, coding),
        },
    }


def _message_bytes(model: Model, coding: GradientCoding) -> float:
    """Return the expected bytes of one worker's gradient as a real message."""
    compressed, dense = count_elements(model.shapes)
    entries = count_entries(compressed_sizes(model.shapes), coding.density)
    length, sections = np.array([max(compressed, 1)]), float(len(compressed_sizes(model.shapes)))
    sparse = coding.wire.expected_bytes(length, np.array([entries]), sections)
    return float(sparse[0]) + DENSE_BYTES[coding.wire.wire_dtype] * dense


def _tensor_class(model: Model, coding: GradientCoding, *, compressed: bool) -> dict[str, float]:
    shapes = [shape for shape in model.shapes if is_compressed(shape) == compressed]
    return {
        "tensors": len(shapes),
        "elements": sum(count_elements(shapes)),
        "bytes": dgc_bytes(shapes, coding.density, coding.bytes_per_element),
    }


def print_sizes(model: Model, coding: GradientCoding, *, as_json: bool) -> None:
    """Print the sizes as JSON, or as a table with a row per kind of layer.

    Raises:
        ValueError: if the coding makes no sense.
    """
    if as_json:
        print_json(describe_sizes(model, coding), indent=2)
        return
    table = Table("layers", "tensors", "elements", "of these dense", "gradient", "sent", "ratio")
    for column in table.columns[1:]:
        column.justify = "right"
    by_kind = sorted(model.layers, key=lambda layer: layer.kind)
    for kind, layers in groupby(by_kind, key=lambda layer: layer.kind):
        table.add_row(*_row(kind, list(layers), coding))
    table.add_section()
    table.add_row(*_row("all", list(model.layers), coding), style="bold")
    console.print_named(model.name, model.summary, "bold")
    console.print(table)
    console.print(
        f"density {coding.density:g}, {coding.bytes_per_element:g} bytes per sent element; "
        "1-D tensors (biases, normalisations) travel dense in fp32",
    )
    message = _message_bytes(model, coding)
    console.print(
        f"as a message ({coding.wire.index_encoding}, {coding.wire.wire_dtype}): "
        f"{bytes_text(message)} expected, header included, "
        f"{times_text(model.gradient_bytes / message)}",
    )
    _print_compute(model)


def _row(title: str, layers: list[Layer], coding: GradientCoding) -> list[str]:
    shapes = [shape for layer in layers for shape in layer.tensors]
    compressed, dense = count_elements(shapes)
    gradient = FLOAT_BYTES * (compressed + dense)
    sent = dgc_bytes(shapes, coding.density, coding.bytes_per_element)
    return [
        f"{len(layers)} {title}" if title != "all" else f"{len(layers)} layers",
        str(len(shapes)),
        f"{compressed + dense:,}",
        f"{dense:,}",
        bytes_text(gradient),
        bytes_text(sent),
        times_text(gradient / sent) if sent else "-",
    ]


def _print_compute(model: Model) -> None:
    compute, rate = model.compute, three_digits(model.batch_samples / model.compute_s)
    for line in (
        f"compute {seconds_text(model.compute_s)} forward and backward for {model.batch_size} "
        f"{model.item} ({rate} {model.samples}/s)",
        f"{compute.origin}: {compute.hardware}, {compute.precision}",
        f"source: {compute.source}",
    ):
        console.print(line)
