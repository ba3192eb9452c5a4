"""Costs of a message at its two ends, beside the links it crosses."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeFloat, PositiveFloat, ValidationError, model_validator

from dgc_topo.tables.explain import explain
from dgc_topo.tables.table import Table

Cost = NonNegativeFloat


class EndCosts(Table):
    """Costs at the ends of a message; all zero by default (a network of wires only).

    This is the only declaration of these costs: a network file has keys of the same names and
    units,
    and a calibration finds their values.

    If CPU time per byte or a machine's cores are given, processors become resources that messages
    and work share like links (see `dgc_topo.simulation.resources`).  Overheads and additions then
    take longer when more processes work than there are cores.

    *Serial* costs of a rank are paid one after the other.

    Attributes:
        overhead_s: Software time per message, on each side, serial: the third message that a rank
            posts in a step is posted three overheads after the step began.
        receive_overhead_s: Software time per received message after its arrival; serial.
        step_overhead_s: Software time per step of a rank, before its messages; serial.
        start_overhead_s: Software time of a rank before the first step of a run; serial.
        reduce_s_per_byte: Time to add one received byte (gamma), at a step's end; serial.
        scale_s_per_byte: Time to multiply one byte by a weight, as gossip does with the received
            and with the own value; serial.
        joint_merge_s: Software time of a rank for each place of a step at which it merges more than
            one plain dense message: several that meet there, or weights; serial.  (A single message
            is added or copied by a short cut, which is part of *receive_overhead_s*.)
        message_curve: Extra time of a message by its size, as pairs (bytes, seconds) with growing
            bytes: straight lines between them, constant outside.  See `curve_from_times`.
        send_s_per_byte: CPU seconds to send a byte, while the process may do other work.
        receive_s_per_byte: CPU seconds to receive a byte.
        code_s_per_byte: CPU seconds to encode a byte of a sparse message before it is sent, and
            again to decode it.  A message to several receivers is encoded once.
        merge_s_per_byte: CPU seconds per byte of sparse entries that an addition reads: the
            received entries and the receiver's own.
        sort_s_per_byte: The same, if many entries from three or more ranks meet: they are sorted.
        code_s_per_message: CPU seconds per sparse message to encode it, and again to decode it.
        merge_s_per_message: CPU seconds per sparse message that is added.
        cold_code_s: Additional CPU seconds to encode or decode sparse messages if the rank has not
            done so yet in this run, because its caches are cold.
        cooling_s: Time constant of the cache's cooling: this long after a rank last encoded or
            decoded, all but a fraction ``1 / e`` of *cold_code_s* is due again.
        cores_per_process: Cores that one rank's process can use at once: its CPU cap.
        cores_per_machine: Cores that the processes of a machine share; None for enough.
        hosts_per_machine: Hosts whose processes share one machine's cores: 1, unless hosts are
            emulated on one machine, as in a lab.
        reverse_share: Bytes of acknowledgements on the way back, per byte sent.
        burst_bytes: Bytes that every link passes at once after a pause (the depth of its token
            bucket); see `dgc_topo.simulation.resources`.

    Raises:
        ValueError: if a cost is negative, or the sizes of the curve do not grow.
    """

    overhead_s: Cost = Field(
        default=0.0, description="software time per message on each side, serial per rank"
    )
    receive_overhead_s: Cost = Field(default=0.0, description="and once it is there")
    step_overhead_s: Cost = Field(
        default=0.0, description="software time per step of a rank, before its messages"
    )
    start_overhead_s: Cost = Field(
        default=0.0, description="software time of a rank before its first step of a run"
    )
    reduce_s_per_byte: Cost = Field(default=0.0, description="to add a received byte")
    scale_s_per_byte: Cost = Field(default=0.0, description="to multiply a byte by a weight")
    joint_merge_s: Cost = Field(
        default=0.0,
        description="software time to merge dense messages that meet at one place, or have weights",
    )
    message_curve: tuple[tuple[NonNegativeFloat, NonNegativeFloat], ...] = Field(
        default=(), description="pairs (bytes, extra seconds of such a message), with growing bytes"
    )
    send_s_per_byte: Cost = Field(default=0.0, description="CPU time of a process to send a byte")
    receive_s_per_byte: Cost = Field(default=0.0, description="and to receive one")
    code_s_per_byte: Cost = Field(
        default=0.0, description="CPU time per byte of a sparse message, to make it and to read it"
    )
    merge_s_per_byte: Cost = Field(
        default=0.0, description="CPU time per byte of sparse entries that are added"
    )
    sort_s_per_byte: Cost = Field(
        default=0.0, description="the same, where entries of three places and more are sorted"
    )
    code_s_per_message: Cost = Field(
        default=0.0, description="CPU time per sparse message, to make it and to read it"
    )
    merge_s_per_message: Cost = Field(default=0.0, description="and to add it")
    cold_code_s: Cost = Field(
        default=0.0, description="CPU time more for the first sparse messages of a run"
    )
    cooling_s: PositiveFloat = Field(
        default=5e-3, description="time in which most of cold_code_s comes back"
    )
    cores_per_process: PositiveFloat = Field(
        default=1.0, description="cores that one rank's process can use at once"
    )
    cores_per_machine: PositiveFloat | None = Field(
        default=None, description="cores that the processes on a machine share; enough by default"
    )
    hosts_per_machine: Annotated[int, Field(ge=1)] = Field(
        default=1, description="emulated hosts whose processes share one machine's cores"
    )
    reverse_share: Cost = Field(
        default=0.0, description="bytes of acknowledgements on the way back, per byte sent"
    )
    burst_bytes: Cost = Field(
        default=0.0, description="that every link lets pass at once after a pause (token bucket)"
    )

    if not TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                problem = dict(error.errors()[0])
                raise ValueError(f"end costs: {explain(problem, type(self))}") from error

        #: Signature for Python; tables in files are read without it.
        __init__.__pydantic_base_init__ = True

    @model_validator(mode="after")
    def _curve_grows(self) -> Self:
        sizes = [size for size, _ in self.message_curve]
        if any(after <= before for before, after in pairwise(sizes)):
            raise ValueError(f"message_curve sizes {sizes}, expected growing sizes")
        return self

    @property
    def machine_cores(self) -> float:
        """Cores that the processes of a machine share, infinite if there are enough."""
        return inf if self.cores_per_machine is None else self.cores_per_machine

    @property
    def has_processors(self) -> bool:
        """True if processors are resources that messages and work share."""
        per_byte_s = self.send_s_per_byte + self.receive_s_per_byte
        return per_byte_s > 0 or self.has_coding or self.cores_per_machine is not None

    @property
    def has_coding(self) -> bool:
        """True if sparse messages cost CPU time to make, read or merge."""
        per_message_s = self.code_s_per_message + self.merge_s_per_message + self.cold_code_s
        per_byte_s = self.code_s_per_byte + self.merge_s_per_byte + self.sort_s_per_byte
        return per_byte_s + per_message_s > 0

    @property
    def is_serial(self) -> bool:
        """True if ranks have work of their own that does not share processors."""
        return not self.has_processors and (self.has_overhead or self.has_merging)

    @property
    def has_merging(self) -> bool:
        """True if a rank works on a dense message after its arrival."""
        return bool(
            self.receive_overhead_s
            or self.reduce_s_per_byte
            or self.scale_s_per_byte
            or self.joint_merge_s
        )

    @property
    def has_overhead(self) -> bool:
        """True if messages, steps or runs cost software time."""
        return bool(self.overhead_s or self.step_overhead_s or self.start_overhead_s)

    def extra_s(self, num_bytes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the extra time of messages of *num_bytes*, same shape."""
        sizes, extra = zip(*self.message_curve, strict=True)
        return np.asarray(np.interp(num_bytes, sizes, extra), np.float64)


def curve_from_times(
    times: tuple[tuple[float, float], ...], bandwidth_bytes_per_s: float, latency_s: float
) -> tuple[tuple[float, float], ...]:
    """Return the message curve under which single messages take the measured one-way times.

    Args:
        times: Pairs (bytes, seconds) of single messages, with growing bytes.
        bandwidth_bytes_per_s: Bandwidth of the route in the model.
        latency_s: Latency of the route in the model.
    """
    return tuple(
        (size, max(time - latency_s - size / bandwidth_bytes_per_s, 0.0)) for size, time in times
    )
