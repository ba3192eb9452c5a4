"""What a message costs at its two ends, beside the links it crosses."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCosts:
    """Costs at the ends of a message; all zero by default (a network of wires only).

    Attributes:
        overhead_s: Software time per message, on each side; serial per rank, so the third
            message that a rank posts in a step is posted three overheads after the step began.
        reduce_s_per_byte: Time to add one received byte (gamma); serial per rank, at a step's end.

        message_curve: Extra time of a message by its size, as pairs (bytes, seconds) with growing
            bytes: straight lines between them, constant outside.  See `curve_from_times`.

    Raises:
        ValueError: if a cost is negative, or the sizes of the curve do not grow.
    """

    overhead_s: float = 0.0
    reduce_s_per_byte: float = 0.0
    message_curve: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("overhead_s", "reduce_s_per_byte"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"host costs: {name} {value}, expected 0 or more")
        sizes = [size for size, _ in self.message_curve]
        if any(after <= before for before, after in pairwise(sizes)):
            raise ValueError(f"host costs: message_curve sizes {sizes}, expected growing sizes")
        if not all(0 <= extra < float("inf") for _, extra in self.message_curve):
            raise ValueError(f"host costs: message_curve {self.message_curve}, expected times >= 0")

    @property
    def is_serial(self) -> bool:
        """Whether ranks are ever busy themselves."""
        return bool(self.overhead_s or self.reduce_s_per_byte)

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
