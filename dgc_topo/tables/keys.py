"""Types of keys that several tables share, and replacement of a table's keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from dgc_topo.tables.explain import explain
from dgc_topo.tables.table import Table
from dgc_topo.units import bytes_from, fraction_from, link_rate_from

_MIB = 2**20
_DEFAULT_BUCKET_MIB = 25.0  # DistributedDataParallel's

_Table = TypeVar("_Table", bound=Table)
_Value = TypeVar("_Value")


def with_keys(base: _Table, own: Mapping[str, object], where: str) -> _Table:
    """Return *base* with other values for some of its keys.

    Raises:
        ValueError: if they make no sense, in one line that begins with *where*, a key.
    """
    try:
        return type(base).model_validate(base.model_dump() | dict(own))
    except ValidationError as error:
        raise ValueError(explain(dict(error.errors()[0]), type(base), where)) from error


def _each_once(values: tuple[_Value, ...]) -> tuple[_Value, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value} is there twice, expected each once")
    return values


EachOnce = AfterValidator(_each_once)


def once_by(key: str) -> AfterValidator:
    """Return a check that no two tables of a list have the same value for *key*."""

    def check(tables: tuple[Table, ...]) -> tuple[Table, ...]:
        said = [getattr(table, key) for table in tables]
        for index, value in enumerate(said):
            if value in said[:index]:
                raise ValueError(f"{key} {value!r} is there twice, expected once")
        return tables

    return AfterValidator(check)


def in_one_line(expected: str) -> WrapValidator:
    """Return a check that a value of several types is refused with one error, not one per type.

    Args:
        expected: What was expected.
    """

    def check(value: object, read: ValidatorFunctionWrapHandler) -> object:
        try:
            return read(value)
        except ValidationError:
            raise PydanticCustomError(
                "kinds", "Input should be {said}", {"said": expected}
            ) from None

    return WrapValidator(check)


def _fraction(value: object) -> object:
    return fraction_from(value, "density") if isinstance(value, str) else value


Density = Annotated[
    float, BeforeValidator(_fraction, json_schema_input_type=float | str), Field(gt=0, le=1)
]

OVERLAP = "send gradients in buckets while the backward pass goes on, as DDP does"

BucketMiB = Annotated[
    float | None,
    Field(
        gt=0,
        description=f"float32 MiB of a bucket, with overlap ({_DEFAULT_BUCKET_MIB:g} by default)",
    ),
]


def bucket_bytes_of(*, overlap: bool, bucket_mib: float | None) -> float | None:
    """Return the float32 bytes of a bucket; None for one bucket after the backward pass.

    Raises:
        ValueError: if there is a size of buckets, and one bucket.
    """
    if not overlap:
        if bucket_mib is not None:
            raise ValueError("bucket_mib: without overlap there is one bucket; set overlap = true")
        return None
    return _MIB * (bucket_mib or _DEFAULT_BUCKET_MIB)


def _rate(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("expected a rate such as '100Mbit/s', or 'unshaped'")  # noqa: TRY004
    return link_rate_from(value, "rate")


def _bytes(value: object) -> object:
    if isinstance(value, str):
        return round(bytes_from(value, "size"))
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("expected a size such as '10MB', or a number of bytes")


Rate = Annotated[float | None, BeforeValidator(_rate)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=4, le=2**34)]


@contextmanager
def at_key(key: str) -> Iterator[None]:
    """Put *key* in front of an error's text."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"{key}: {error}") from error
