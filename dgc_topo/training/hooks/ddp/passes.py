"""One backward pass: its buckets, handed over to DDP together.

DDP copies gradients out of the buckets only at the end of the backward pass, so nothing is lost by
waiting for the last bucket.  Until then the pass can be given up: if one rank's gradient is not
finite, no bucket of the pass counts, on any rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.compression.compressor import restore
from dgc_topo.training.carrying import by_parameter
from dgc_topo.training.hooks.compressors import BucketDGC, copies_of
from dgc_topo.training.hooks.ddp.moves import Moves
from dgc_topo.training.hooks.layout import BucketLayout
from dgc_topo.training.hooks.sums import PartSum

#: The gradient of a bucket, or the error that took its place.
Result = torch.futures.Future[Tensor | BaseException]


class BegunBucket(NamedTuple):
    """A bucket that DDP has handed over, to be averaged over the ranks.

    Attributes:
        layout: Its parameters.
        buffer: Their gradients, as the layout says, times the scale of the loss; the average
            replaces them.
        result: Future for the average; set once it is there, or at the end of the pass.
        within: The pass.
    """

    layout: BucketLayout
    buffer: Tensor
    result: Result
    within: BackwardPass


class Rollback:
    """State of some parameters, to be restored if no rank turns out to have used them.

    Args:
        compressor: Compressor of their bucket, before it compresses.
        names: The parameters.
    """

    def __init__(self, compressor: BucketDGC, names: Sequence[str]) -> None:
        self._live = by_parameter(compressor.sections(), names)
        self._before = {name: copies_of(state) for name, state in self._live.items()}

    @torch.no_grad()
    def restore(self, name: str) -> None:
        """Undo all that the step did to a parameter's state."""
        live = self._live[name]
        restore("hook", {"of": self._before[name]}, {"of": live})


@dataclass(slots=True)
class SummedBucket:
    """A bucket whose sum is there.

    Attributes:
        buffer: Its gradient, averaged over the ranks.
        result: Future that DDP waits for.
        sum: What its compressor did.
        rollback: Former state of parameters that this rank did not use.
        unused: Parameters that no rank used.
    """

    buffer: Tensor
    result: Result
    sum: PartSum
    rollback: Rollback
    unused: list[str]

    def keep(self) -> None:
        """Undo the step only for parameters that no rank used: DDP drops their gradients."""
        for name in self.unused:
            self.rollback.restore(name)


@dataclass(slots=True)
class BackwardPass:
    """The buckets of one backward pass; used by one thread at a time.

    Attributes:
        number: Number of the pass, from 0: the iteration of the topology.
        num_begun: Number of its buckets that DDP has handed over so far.
        scale: Factor of the loss, which gradients still have.
        moves: What the optimizers have done so far, which does not change within a pass.
        may_be_unused: True if there may be parameters whose gradients DDP drops, because no rank
            used them.
        buckets: Those that are summed.
        is_over: True once DDP has all results.
        is_finite: False once a rank's gradient was not.
    """

    number: int
    scale: float = 1.0
    may_be_unused: bool = False
    moves: Moves = field(default_factory=Moves)
    buckets: list[SummedBucket] = field(default_factory=list)
    is_over: bool = False
    is_finite: bool = True
    num_begun: int = 0

    def close(self) -> None:
        """Hand over all gradients; infinite ones if a rank's was not finite."""
        self.is_finite = all(bucket.sum.is_finite for bucket in self.buckets)
        self.is_over = True
        for bucket in self.buckets:
            if self.is_finite:
                bucket.keep()
            else:
                bucket.sum.give_up()
                bucket.buffer.fill_(torch.inf)
        for bucket in self.buckets:
            bucket.result.set_result(bucket.buffer)
        self.buckets = []

    def abandon(self) -> None:
        """Take back what a pass sent that ended early; DDP waits for none of its results."""
        if not self.is_over:
            self.is_over = True
            for bucket in self.buckets:
                bucket.sum.give_up()
            self.buckets = []

    def fail(self, error: BaseException) -> None:
        """Hand over an error instead of all gradients."""
        self.is_over = True
        for bucket in self.buckets:
            bucket.result.set_result(error)
        self.buckets = []
