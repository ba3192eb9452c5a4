"""The way of buckets through a backward pass: which ones wait for others, and which do not."""

from threading import Event

import pytest
import torch
from torch import Tensor

from dgc_topo.training.hooks.ddp.passes import BackwardPass, BegunBucket
from dgc_topo.training.hooks.ddp.running import HookError, PassRunner
from dgc_topo.training.hooks.layout import BucketLayout

_LONGEST_S = 20.0


class Doubling:
    """Doubles buckets; all but the last one wait until that one has come, or fail then."""

    def __init__(self, *, takes_two: bool, error: Exception | None = None) -> None:
        self.takes_two, self.order = takes_two, list[int]()
        self._error, self._last_has_come = error, Event()

    def run(self, bucket: BegunBucket, *, beside: bool = False) -> None:
        if beside:
            self._last_has_come.set()
        elif self.takes_two:
            assert self._last_has_come.wait(_LONGEST_S)
            if self._error is not None:
                raise self._error
        self.order.append(int(bucket.buffer[0]))
        bucket.result.set_result(bucket.buffer.mul_(2))


def begun(reduction: Doubling) -> tuple[PassRunner, list[torch.futures.Future[Tensor]]]:
    """Hand three buckets over."""
    runner = PassRunner(reduction)
    runner.begin(BackwardPass(0))
    layout = BucketLayout((), ())
    buffers = [torch.full((2,), float(number)) for number in range(3)]
    return runner, [runner.add(layout, each, is_last=int(each[0]) == 2) for each in buffers]


def test_the_last_bucket_does_not_wait_for_others_and_ends_the_pass_after_them():
    reduction = Doubling(takes_two=True)
    runner, futures = begun(reduction)
    assert all(future.done() for future in futures)
    assert [future.value().tolist() for future in futures] == [[0, 0], [2, 2], [4, 4]]
    assert sorted(reduction.order) == [0, 1, 2]
    runner.begin(BackwardPass(1))  # nothing is left of the first one


def test_where_buckets_depend_on_each_other_they_keep_their_order():
    reduction = Doubling(takes_two=False)
    assert [each.wait().tolist() for each in begun(reduction)[1]] == [[0, 0], [2, 2], [4, 4]]
    assert reduction.order == [0, 1, 2]


def test_a_failure_beside_the_last_bucket_is_raised_and_kept():
    runner, futures = begun(Doubling(takes_two=True, error=ConnectionError("rank 1 is gone")))
    for future in futures[:2]:
        with pytest.raises(RuntimeError, match="ConnectionError: rank 1 is gone"):
            future.wait()
    assert futures[2].wait().tolist() == [4, 4]
    with pytest.raises(HookError, match="failed before"):
        runner.refuse_after_failure()
