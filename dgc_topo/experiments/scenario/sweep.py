"""Section ``[sweep]``: the axes of many predictions; `dgc_topo.sweep` takes the same keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from dgc_topo.averaging import Averaging, read_averaging, table_of
from dgc_topo.experiments.scenario.axes import (
    Spread,
    number,
    read_dtype,
    read_flag,
    read_network,
    read_topologies,
    read_workload,
    values_of,
    whole_number,
)
from dgc_topo.experiments.scenario.step_keys import JitterChoice, WorkloadChoice
from dgc_topo.simulation.training import Codec
from dgc_topo.simulation.training.simulation import as_codec, as_jitter
from dgc_topo.simulation.training.timeline import Jitter
from dgc_topo.simulation.workload import Workload
from dgc_topo.sizes import is_sparse
from dgc_topo.tables.explain import explain
from dgc_topo.tables.keys import OVERLAP
from dgc_topo.tables.places import FolderOfScenario
from dgc_topo.tables.table import Table
from dgc_topo.topology import MAX_WORLD_SIZE, Topology, TopologyTable
from dgc_topo.topology_options import OptionValue
from dgc_topo.units import bytes_from, fraction_from, rate_from, seconds_from
from dgc_topo.wire.coding import IndexChoice, WireDtype

_Number = float | str
_MOST_PASSES = 10_000
_LONGEST_S = 1e9  # of a step's compressing
_WIDEST = 100.0  # relative spread


def _axis(read: Callable[[Any], Any], kind: Any = _Number, *, ranges: bool = True) -> Any:
    """Return the annotation of an axis whose values *read* reads."""
    schema = kind | tuple[kind, ...] | Spread if ranges else kind | tuple[kind, ...]
    return BeforeValidator(partial(values_of, read=read), json_schema_input_type=schema)


def _axis_with_folder(read: Callable[[Any, ValidationInfo], Any], kind: Any) -> Any:
    """Return the annotation of an axis with values that may be paths in the file's folder."""

    def values(given: object, info: ValidationInfo) -> tuple[Any, ...]:
        return values_of(given, lambda value: read(value, info))

    return BeforeValidator(values, json_schema_input_type=kind | tuple[kind, ...])


def _read_codec(value: object) -> Codec:
    if isinstance(value, Codec):
        return value
    if not isinstance(value, dict):
        return as_codec(number(unit=seconds_from, most=_LONGEST_S)(value))
    try:
        return _CodecTable.model_validate(value).load()
    except ValidationError as error:
        raise ValueError(explain(dict(error.errors()[0]), _CodecTable, "table")) from error


def _read_jitter(value: object) -> Jitter | None:
    if isinstance(value, Jitter):
        return value
    if not isinstance(value, dict):
        return as_jitter(number(most=_WIDEST)(value))
    try:
        return JitterChoice.model_validate(value).load()
    except ValidationError as error:
        raise ValueError(explain(dict(error.errors()[0]), JitterChoice, "table")) from error


class _CodecTable(Table):
    """Costs of compressing."""

    encode_s_per_element: float = Field(
        default=0.0, ge=0, description="compressing, per compressible element of the model"
    )
    decode_s_per_element: float = Field(default=0.0, ge=0, description="decompressing, likewise")
    fixed_s: float = Field(default=0.0, ge=0, description="per step, whatever the model")

    def load(self) -> Codec:
        """Return the costs."""
        return Codec(**self.model_dump())


class SweepSection(Table):
    """Axes of many predictions: each takes one value, a list, or a range of numbers.

    A range is ``{ from = "100Mbit/s", to = "100Gbit/s", count = 13 }``, geometric unless ``scale =
    "linear"``.  Every combination is predicted.
    """

    topology: Annotated[
        tuple[Topology, ...], _axis_with_folder(read_topologies, str | TopologyTable)
    ] = Field(
        default=(),
        description="by default all of the scenario; a list as an option's value in a table stands "
        "for one topology with each of its values",
    )
    world_size: Annotated[tuple[int, ...], _axis(whole_number(MAX_WORLD_SIZE), int)] = Field(
        description="number of ranks, dedicated servers included"
    )
    workload: Annotated[tuple[Any, ...], _axis_with_folder(read_workload, str | WorkloadChoice)] = (
        Field(default=(), description="models of the zoo, tables, or results folders")
    )
    num_bytes: Annotated[tuple[float, ...], _axis(number(unit=bytes_from))] = Field(
        default=(),
        description="dense float32 bytes of one collective, in the place of a workload",
    )
    network: Annotated[tuple[Any, ...], _axis(read_network, str, ranges=False)] = Field(
        description="fabrics, names of [[networks]], or network files"
    )
    folder_of_files: FolderOfScenario = ""
    bandwidth: Annotated[tuple[float, ...], _axis(number(unit=rate_from, above=0))] = Field(
        default=(), description="of each host's link, each way; by default the network's own"
    )
    latency: Annotated[tuple[float, ...], _axis(number(unit=seconds_from))] = Field(
        default=(),
        description="of each link, such as '10us'; host to host around one switch is two links; "
        "by default the network's own",
    )
    density: Annotated[tuple[float, ...], _axis(number(unit=fraction_from, above=0, most=1))] = (
        Field(default=(1.0,), description="fraction of the elements that is sent")
    )
    overlap: Annotated[tuple[bool, ...], _axis(read_flag, bool, ranges=False)] = Field(
        default=(False,), description=OVERLAP
    )
    bucket_bytes: Annotated[tuple[float, ...], _axis(number(unit=bytes_from, above=0))] = Field(
        default=(), description="float32 bytes of a bucket, where it overlaps (25MiB by default)"
    )
    wire_dtype: Annotated[tuple[WireDtype, ...], _axis(read_dtype, WireDtype, ranges=False)] = (
        Field(default=("float32",), description="of values in messages")
    )
    accumulation_steps: Annotated[tuple[int, ...], _axis(whole_number(_MOST_PASSES), int)] = Field(
        default=(1,), description="forward and backward passes per step"
    )
    every: Annotated[tuple[int, ...], _axis(whole_number(_MOST_PASSES), int)] = Field(
        default=(1,),
        description="local steps per exchange, of parameters or their changes; 1 sends gradients, "
        "but for gossip",
    )
    averaging: Annotated[
        tuple[Averaging, ...],
        _axis_with_folder(read_averaging, str | dict[str, OptionValue]),
        PlainSerializer(lambda rules: [*map(table_of, rules)]),
    ] = Field(
        default=(),
        description="averaging rules, in the place of `every`, which they say; each over the "
        "topologies that it fits",
    )
    hosts_per_rack: Annotated[tuple[int, ...], _axis(whole_number(2**20), int)] = Field(
        default=(), description="puts the hosts of a fabric into racks, or changes a network's"
    )
    oversubscription: Annotated[tuple[float, ...], _axis(number(above=0))] = Field(
        default=(), description="bandwidth of a rack's hosts over that of its uplink"
    )
    slow_host_bandwidth_factor: Annotated[tuple[float, ...], _axis(number(above=0))] = Field(
        default=(1.0,),
        description="on the bandwidth of the links of the last rank's host: 0.5 is half as fast",
    )
    slow_rank_compute_time_factor: Annotated[tuple[float, ...], _axis(number(above=0))] = Field(
        default=(1.0,), description="on the last rank's compute time: 2 is half as fast"
    )

    codec: Annotated[
        Any, BeforeValidator(_read_codec, json_schema_input_type=_Number | _CodecTable)
    ] = Field(
        default=Codec(), description="time that compressing takes per step, where it is sparse"
    )
    jitter: Annotated[
        Any, BeforeValidator(_read_jitter, json_schema_input_type=float | JitterChoice)
    ] = Field(default=None, description="relative spread of compute times, or its distribution")
    union_exponent: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="growth of sparse unions: c ranks' entries merge into c**exponent times one's; "
        "entries are independent by default",
    )
    index_encoding: IndexChoice = Field(default="auto", description="of sparse messages")
    num_steps: int | None = Field(
        default=None, ge=1, le=100_000, description="to average over; 8 if steps differ, else 1"
    )

    @property
    def is_of_steps(self) -> bool:
        """True for training steps, False for collectives."""
        return bool(self.workload)

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        if bool(self.workload) == bool(self.num_bytes):
            raise ValueError(
                "workload or num_bytes, expected one of them: training steps or collectives"
            )
        said = [key for key in _OF_STEPS if key in self.model_fields_set]
        if said and not self.workload:
            raise ValueError(f"{said[0]}: is for training steps, expected workload as well")
        return self

    @model_validator(mode="after")
    def _no_setting_is_idle(self) -> Self:
        if self.bucket_bytes and True not in self.overlap:
            raise ValueError(
                "bucket_bytes: without overlap there is one bucket, expected overlap = true"
            )
        if not any(map(is_sparse, self.density)):
            said = [key for key in _OF_SPARSE if key in self.model_fields_set]
            if said:
                raise ValueError(f"{said[0]}: nothing is compressed, expected a density below 1")
        return self

    @model_validator(mode="after")
    def _local_steps_are_said_once(self) -> Self:
        if self.averaging and "every" in self.model_fields_set:
            raise ValueError(
                f"every: with averaging = {str(self.averaging[0])!r}, which says it, expected one "
                "of them"
            )
        return self

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        names = [workload.name for workload in self.workloads]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(
                    f"workload: two are called {name!r}, expected names of their own, such as "
                    f"name = '{name}-{self.workloads[index].batch_size}'"
                )
        return self

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """The workloads."""
        return self.workload


#: Keys of training steps, which a collective has not.
_OF_STEPS = (
    "overlap",
    "bucket_bytes",
    "accumulation_steps",
    "every",
    "averaging",
    "slow_rank_compute_time_factor",
    "codec",
    "jitter",
    "num_steps",
)
_OF_SPARSE = ("codec", "union_exponent", "index_encoding")
