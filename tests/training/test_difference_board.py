"""Words of ranks that differ: what is named if not all ranks answer."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from dgc_topo.training.difference_board import DifferenceBoard


@pytest.fixture
def alone():
    """Make a group of this process alone, whose store stands for everybody's."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def of(rank: int, world_size: int, patience_s: float) -> DifferenceBoard:
    group: Any = SimpleNamespace(group_name="g", rank=lambda: rank, size=lambda: world_size)
    return DifferenceBoard(group, patience_s)


def test_all_that_answer_are_named_and_all_get_the_same_words(alone):
    with ThreadPoolExecutor(3) as threads:
        told = [
            threads.submit(of(rank, 3, 30.0).tell, "it", {"lr": 0.1 * (1 + rank // 2)})
            for rank in range(3)
        ]
        texts = {str(each.result()) for each in told}
    (text,) = texts
    assert text.startswith("it: ranks differ: lr is 0.2 on rank 2, 0.1 on ranks 0, 1; expected")


def test_a_rank_that_never_answers_is_not_waited_for(alone):
    here = of(1, 3, 0.05)
    assert not here.are_told()
    text = str(here.tell("it", {"lr": 0.1}))
    assert here.are_told()
    assert of(2, 3, 0.05).are_told()
    assert "nothing came from ranks [0, 2] within 0.05 s" in text
