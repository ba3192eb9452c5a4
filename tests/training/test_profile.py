"""The measured profile: every gradient once, in the order of the backward pass."""

import pytest
import torch
from torch import nn

from dgc_topo.training.clocks import BackwardClock
from dgc_topo.training.solo import make_profile


class Slow(torch.autograd.Function):
    """Identity whose backward pass takes long enough to be seen."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        matrix = torch.randn(400, 400)
        for _ in range(30):
            matrix = matrix @ matrix.T / 400
        return gradient + 0 * matrix[0, 0]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)
        self.unused = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return self.last(Slow.apply(self.first(x)))


def passes_of(net, count=3):
    clock = BackwardClock(dict(net.named_parameters()))
    passes = []
    for _ in range(count):
        with clock.watching():
            loss = net(torch.ones(1, 4)).sum()
            clock.begin()
            loss.backward()
            passes.append(clock.ready_s())
    return passes


def test_layers_are_ready_in_the_order_of_the_backward_pass():
    net = Net()
    parameters = dict(net.named_parameters())
    profile = make_profile(passes_of(net), parameters, compute_s=10.0)
    assert [layer.name for layer in profile.layers] == ["unused", "last", "first"]
    sizes = [(layer.compressible_elements, layer.dense_elements) for layer in profile.layers]
    assert sizes == [(0, 3), (10, 2), (20, 5)]
    unused, last, first = (layer.ready_s for layer in profile.layers)
    assert unused == 0 < last < first  # between them lies the slow part
    assert profile.forward_s == pytest.approx(10.0 - first)


def test_hooks_are_gone_afterwards():
    net = Net()
    passes_of(net)
    assert not any(p._post_accumulate_grad_hooks for p in net.parameters())


def test_a_profile_needs_a_pass():
    with pytest.raises(ValueError, match="profile: no passes, expected at least one"):
        make_profile([], dict(Net().named_parameters()), 1.0)


@pytest.mark.gpu
def test_on_a_gpu_times_are_those_of_its_kernels():
    net = Net().cuda()
    clock = BackwardClock(dict(net.named_parameters()))
    with clock.watching():
        loss = net(torch.ones(1, 4, device="cuda")).sum()
        clock.begin()
        loss.backward()
        ready_s = clock.ready_s()
    assert 0 < ready_s["last.weight"] < ready_s["first.weight"]
