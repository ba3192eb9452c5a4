"""The average of one part of the gradient over the ranks, which can be given up afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgc_topo.compression.gradients import NonFiniteGradientError
from dgc_topo.payload import Payload
from dgc_topo.training.hooks.compressors import BucketDGC
from dgc_topo.training.hooks.flags import Flags
from dgc_topo.training.marks import check_marks


@dataclass(slots=True)
class PartSum:
    """A part's sum in one step, and the means to give it up.

    Attributes:
        compressor: The part's.
        momenta: Copies of the compressor's momenta, from before the sum.
        num_users: Number of ranks that used each parameter, where it was asked for.
        is_finite: False if some rank's gradient was not.
    """

    compressor: BucketDGC
    momenta: list[Tensor]
    num_users: list[int]
    is_finite: bool

    @torch.no_grad()
    def give_up(self) -> None:
        """Take back what this rank sent, because nobody applies the sum."""
        self.compressor.take_back()
        if self.momenta:
            torch._foreach_copy_(self.compressor.momenta(), self.momenta)


def average(
    compressor: BucketDGC,
    gradients: Mapping[str, Tensor],
    exchange: Callable[[Payload], object],
    is_used: Sequence[bool] = (),
    marks: Sequence[bool] = (),
) -> PartSum:
    """Compress a part of the gradient, sum it over the ranks, and write the average.

    A rank whose gradient is not finite sends nothing but that fact: the others must not wait.

    Args:
        compressor: The part's, at the density of the step.
        gradients: This rank's, divided by the number of ranks; contiguous, float32.  Overwritten
            by the average if all ranks' are finite.
        exchange: Sums a payload over the ranks in place.
        is_used: True for each parameter that this rank used, or nothing.
        marks: Marks of what ranks must have alike; none compare nothing.

    Raises:
        DisagreementError: if ranks differ in that; on all ranks.
    """
    is_finite = True
    try:
        payload = compressor.compress(gradients)
    except NonFiniteGradientError:
        payload, is_finite = compressor.neutral(), False
    flags = Flags(payload, [not is_finite, *marks, *is_used])
    exchange(flags.bundle)
    num_odd, *counts = flags.counts()
    check_marks("hook", counts[: len(marks)], marks)
    num_users = counts[len(marks) :]
    momenta = [momentum.clone() for momentum in compressor.momenta()]
    if not num_odd:
        compressor.finish_into(payload, gradients)
    return PartSum(compressor, momenta, num_users, not num_odd)
