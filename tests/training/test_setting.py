"""Models of the user's own whose tensors nobody can send, or load again."""

import pytest
import torch
from torch import nn

from dgc_topo.python_files import CodeError
from dgc_topo.training.models import OwnModel


@pytest.mark.parametrize(
    ("buffer", "reason"),
    [
        (torch.ones(1, 2).expand(3, 2), r"net\.py:Net: elements of 'odd' share memory .*its clone"),
        (torch.eye(3).to_sparse(), r"net\.py:Net: 'odd' is torch\.sparse_coo, expected a dense"),
        (torch.empty(2, device="meta"), r"net\.py:Net: 'odd' is on meta, expected memory"),
    ],
    ids=["expanded", "sparse", "meta"],
)
def test_a_buffer_that_cannot_be_averaged_or_resumed_is_refused_when_the_model_is_made(
    buffer, reason
):
    def make() -> nn.Module:
        model = nn.Linear(2, 2)
        model.register_buffer("odd", buffer, persistent=False)
        return model

    with pytest.raises(CodeError, match=reason):
        OwnModel("net.py:Net", make).builder({})(0)
