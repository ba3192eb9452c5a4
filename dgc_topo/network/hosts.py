"""What a message costs at its two ends, beside the links it crosses."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import inf

import numpy as np
import numpy.typing as npt

_AT_LEAST_0 = (
    "overhead_s",
    "receive_overhead_s",
    "step_overhead_s",
    "start_overhead_s",
    "reduce_s_per_byte",
    "scale_s_per_byte",
    "send_s_per_byte",
    "receive_s_per_byte",
    "code_s_per_byte",
    "merge_s_per_byte",
    "sort_s_per_byte",
    "code_s_per_message",
    "merge_s_per_message",
    "cold_code_s",
    "reverse_share",
    "burst_bytes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCosts:
    """Costs at the ends of a message; all zero by default (a network of wires only).

    Attributes:
        overhead_s: Software time per message, on each side; serial per rank, so the third
            message that a rank posts in a step is posted three overheads after the step began.
        receive_overhead_s: Software time per received message once it is there, before the rank
            goes on; serial as well.
        step_overhead_s: Software time per step of a rank, before its messages; serial as well.
        start_overhead_s: Software time of a rank before its first step of a run; serial as well.
        reduce_s_per_byte: Time to add one received byte (gamma); serial per rank, at a step's end.
        scale_s_per_byte: Time to multiply one byte by a weight, as gossip does with what it
            receives and with what it keeps; serial as well.
        message_curve: Extra time of a message by its size, as pairs (bytes, seconds) with growing
            bytes: straight lines between them, constant outside.  See `curve_from_times`.
        send_s_per_byte: CPU seconds to send a byte, beside whatever else the process does.
        receive_s_per_byte: CPU seconds to receive a byte.
        code_s_per_byte: CPU seconds to make a byte of a sparse message, before it can be sent, and
            again to read it.  What goes from one place to many is made once.
        merge_s_per_byte: CPU seconds per byte of sparse entries that adding goes through: those
            that arrived, and the receiver's own.
        sort_s_per_byte: The same where many entries of three and more places come together: these
            are sorted.
        code_s_per_message: CPU seconds per sparse message, to make it and again to read it.
        merge_s_per_message: CPU seconds per sparse message that is added to what is there.
        cold_code_s: CPU seconds more to make sparse messages, and to read them, if the rank has not
            done so in this run: caches have forgotten how.
        cooling_s: Within this time after it has done so, all of *cold_code_s* but a part of
            ``1 / e`` comes back.
        cores_per_process: Cores that one rank's process can use at once: its CPU cap.
        cores_per_machine: Cores that the processes of a machine share; infinite by default.
        hosts_per_machine: Ranks' processes on one machine: host h is on machine
            ``h // hosts_per_machine``.
        reverse_share: Bytes of acknowledgements on the way back, per byte sent.
        burst_bytes: That every link lets pass at once after a pause (its token bucket's depth);
            see `dgc_topo.simulation.buckets`.

    Where CPU time per byte or a machine's cores are given, processors are resources that messages
    and work share like links (see `dgc_topo.simulation.resources`): overheads and additions then
    take longer if more processes work than there are cores.

    Raises:
        ValueError: if a cost is negative, or the sizes of the curve do not grow.
    """

    overhead_s: float = 0.0
    receive_overhead_s: float = 0.0
    step_overhead_s: float = 0.0
    start_overhead_s: float = 0.0
    reduce_s_per_byte: float = 0.0
    scale_s_per_byte: float = 0.0
    message_curve: tuple[tuple[float, float], ...] = ()
    send_s_per_byte: float = 0.0
    receive_s_per_byte: float = 0.0
    code_s_per_byte: float = 0.0
    merge_s_per_byte: float = 0.0
    sort_s_per_byte: float = 0.0
    code_s_per_message: float = 0.0
    merge_s_per_message: float = 0.0
    cold_code_s: float = 0.0
    cooling_s: float = 5e-3
    cores_per_process: float = 1.0
    cores_per_machine: float = inf
    hosts_per_machine: int = 1
    reverse_share: float = 0.0
    burst_bytes: float = 0.0

    def __post_init__(self) -> None:
        for name in _AT_LEAST_0:
            value = getattr(self, name)
            if not 0 <= value < inf:
                raise ValueError(f"host costs: {name} {value}, expected 0 or more")
        for name in (
            "cooling_s",
            "cores_per_process",
            "cores_per_machine",
            "hosts_per_machine",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"host costs: {name} {getattr(self, name)}, expected above 0")
        sizes = [size for size, _ in self.message_curve]
        if any(after <= before for before, after in pairwise(sizes)):
            raise ValueError(f"host costs: message_curve sizes {sizes}, expected growing sizes")
        if not all(0 <= extra < inf for _, extra in self.message_curve):
            raise ValueError(f"host costs: message_curve {self.message_curve}, expected times >= 0")

    @property
    def has_processors(self) -> bool:
        """Whether processors are resources that messages and work share."""
        per_byte_s = self.send_s_per_byte + self.receive_s_per_byte
        return per_byte_s > 0 or self.has_coding or self.cores_per_machine < inf

    @property
    def has_coding(self) -> bool:
        """Whether sparse messages cost CPU time to make, read or merge."""
        per_message_s = self.code_s_per_message + self.merge_s_per_message + self.cold_code_s
        per_byte_s = self.code_s_per_byte + self.merge_s_per_byte + self.sort_s_per_byte
        return per_byte_s + per_message_s > 0

    @property
    def is_serial(self) -> bool:
        """Whether ranks are ever busy themselves, other than by sharing processors."""
        return not self.has_processors and (self.has_overhead or self.has_merging)

    @property
    def has_merging(self) -> bool:
        """Whether a rank is busy with a dense message once it is there."""
        return bool(self.receive_overhead_s or self.reduce_s_per_byte or self.scale_s_per_byte)

    @property
    def has_overhead(self) -> bool:
        """Whether messages, steps or runs cost software time."""
        return bool(self.overhead_s or self.step_overhead_s or self.start_overhead_s)

    def extra_s(self, num_bytes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the extra time of messages of *num_bytes*, same shape."""
        sizes, extra = zip(*self.message_curve, strict=True)
        return np.asarray(np.interp(num_bytes, sizes, extra), np.float64)


def curve_from_times(
    times: tuple[tuple[float, float], ...], bandwidth_bytes_per_s: float, latency_s: float
) -> tuple[tuple[float, float], ...]:
    """Return the message curve of measured one-way times, so that one message takes just those.

    Args:
        times: Pairs (bytes, seconds) of single messages, with growing bytes.
        bandwidth_bytes_per_s: Of the route in the model.
        latency_s: Of the route in the model.
    """
    return tuple(
        (size, max(time - latency_s - size / bandwidth_bytes_per_s, 0.0)) for size, time in times
    )
