"""A whole step on a GPU beside a plain one, bit for bit; a script that needs Triton.

With TRITON_INTERPRET=1 it runs on a CPU, kernels and all; without, on the first GPU.
"""

import itertools
import math
from functools import partial
from typing import Any
from unittest import mock

import torch

from dgc_topo.compression.accumulation import Accumulation
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.gpu import candidates
from dgc_topo.compression.gpu.accumulation import FusedAccumulation, FusedNorm
from dgc_topo.compression.gpu.fused_step import FusedStep
from dgc_topo.compression.gpu.threshold import FusedThreshold
from dgc_topo.compression.gradients import NonFiniteGradientError
from dgc_topo.compression.layout import FlatLayout, Groups
from dgc_topo.compression.local_step import LocalStep
from dgc_topo.compression.selection import RuleSelector, top_k_per_layer
from dgc_topo.compression.threshold import Goal, Tail
from dgc_topo.payload import SparsePayload
from dgc_topo.wire.coding import WireCoding
from tests.compression.fused_check import BLOCK, DEVICE, SHAPES, Gradients, randoms
from tests.kernels import as_kernels_choose

COMPRESSED = FlatLayout.of({name: torch.empty(shape) for name, shape in SHAPES.items()})


class Pair:
    """Both ways, held to each other in every step."""

    def __init__(self, *, coding: WireCoding, density: float = 0.015, **law: Any) -> None:
        config = DGCConfig(warm_up="none", **law)
        self.density, self.coding = density, coding
        state = Accumulation(COMPRESSED, DEVICE, config)
        picks = RuleSelector(top_k_per_layer, COMPRESSED)
        self.plain = LocalStep("plain", state, picks, None, coding)
        fused = FusedAccumulation(COMPRESSED, DEVICE, config, block=BLOCK)
        groups = Groups.per_layer(COMPRESSED)
        self.selector = FusedThreshold(groups, fused.blocks)
        shapes = {**SHAPES, "bias": (7,)}
        parameters = {name: torch.empty(shape, device=DEVICE) for name, shape in shapes.items()}
        norm = FusedNorm(parameters, DEVICE)
        self.fused = FusedStep("fused", fused, self.selector, norm, coding)

    def same_state(self) -> bool:
        plain, fused = self.plain.accumulation, self.fused.accumulation
        return fused.velocity.equal(plain.velocity) and fused.residual.equal(plain.residual)

    def step(self, gradients: Gradients, *, wild: bool = False, **options: Any) -> bool:
        """Return whether the whole step was launched at once, its message too."""
        slack = self.selector.tail.slack
        if not wild:
            slack.clamp_(max=1.0)
        # Tiny groups would miss until they have learned; 0 lets all of theirs pass.
        slack[torch.tensor(COMPRESSED.offsets, device=DEVICE).diff() < 100] = 0.0
        gradients = {**gradients, "bias": torch.full((7,), 0.5, device=DEVICE)}
        expected = self.plain.accumulate(gradients, self.density, **options)
        factor = self.fused.accumulate(gradients, self.density, **options)
        assert math.isclose(float(factor), float(expected), rel_tol=1e-6)
        wanted, found = self.plain.sent(self.density), self.fused.sent(self.density)
        assert found.indices.equal(wanted.indices)
        if "clip_norm" in options:  # norms are summed in another order
            assert torch.allclose(found.values, wanted.values, rtol=1e-5)
            for name in ("velocity", "residual"):
                plain = getattr(self.plain.accumulation, name)
                getattr(self.fused.accumulation, name).copy_(plain)
        else:
            assert found.values.equal(wanted.values)
            assert self.same_state()
        return found.message is not None and self.is_right(found.message, *found[:2])

    def is_right(self, message: torch.Tensor, *entries: torch.Tensor) -> bool:
        """Check that *message* is what a payload of the entries would have made."""
        indices, values = entries
        made = partial(SparsePayload, indices, values, COMPRESSED.length, coding=self.coding)
        payload = made()
        payload.cut(1)
        assert message.equal(payload.pack(0, 1))
        ready = made(message=message)
        assert ready.encoded_bytes() == len(message)
        ready.cut(1)
        assert ready.pack(0, 1) is message
        return True


def check_codings() -> None:
    """Messages of all codings that kernels write, and of one that they do not."""
    for coding, law in (
        (WireCoding(), {}),
        (WireCoding("run-length", "float16"), {"nesterov": True}),
        (WireCoding("bit-packed", "float16"), {"momentum_correction": False}),
        (WireCoding("int32"), {"masking": False}),
    ):
        pair = Pair(coding=coding, **law)
        generator = torch.Generator().manual_seed(1)
        weights = {**randoms(generator, torch.float32), "bias": torch.ones(7, device=DEVICE)}
        written = []
        for step in range(10):
            pair.fused.in_phases = step > 6
            decay = (weights, 0.01) if step > 3 else None
            written.append(pair.step(randoms(generator, torch.float32), decay=decay))
        assert written == [False, *[coding.index_encoding != "int32"] * 9], written


def check_clipping() -> None:
    """The norm of all gradients bounds it, those included that are not compressed."""
    pair = Pair(coding=WireCoding())
    generator = torch.Generator().manual_seed(2)
    for bound in (math.inf, 1e3, 5.0, 0.1, 5.0):
        pair.step(randoms(generator, torch.float32), clip_norm=bound)


def check_learning() -> None:
    """The kernel learns from a search what `Tail.learn` would."""
    pair = Pair(coding=WireCoding())
    generator = torch.Generator().manual_seed(6)
    tail, whole = pair.selector.tail, 0
    for _ in range(8):
        before, known = pair.selector.smallest, (tail.slack, tail.aim, tail.width)
        before = None if before is None else before.clone()
        slack, aim, width = (each.clone() for each in known)
        if not pair.step(randoms(generator, torch.float32), wild=True) or before is None:
            continue
        whole += 1
        expected, lists = Tail(slack, aim, width), pair.selector._usual_now().lists
        smallest = pair.selector.smallest
        assert smallest is not None
        # As `Pair.step` sets it for tiny groups.
        expected.slack[torch.tensor(COMPRESSED.offsets, device=DEVICE).diff() < 100] = 0.0
        expected.learn(before, smallest, lists.found, lists.wanted, lists.plan.goal)
        sending = lists.wanted > 0
        for name in ("slack", "aim", "width"):
            found, wanted = (getattr(each, name)[sending] for each in (tail, expected))
            assert torch.allclose(found, wanted, rtol=1e-4), (name, found, wanted)
    assert whole > 2


def check_wild_steps() -> None:
    """Where a group finds too few candidates, or too many, nothing is taken too early."""
    with (
        mock.patch.object(
            candidates, "_GENEROUS", candidates._Plan(4.0, Goal(1.2, 1.5, 32.0, 0.0))
        ),
        mock.patch.object(candidates, "_SPARE_ROOM", 64),
    ):
        pair = Pair(coding=WireCoding())
        generator = torch.Generator().manual_seed(3)
        written = []
        for factor in (*[1.0] * 6, 1e-3, 1e3, 1.0, 0.0, 1.0, 1e15):
            noise = randoms(generator, torch.float32)
            gradients = {name: factor * g for name, g in noise.items()}
            written.append(pair.step(gradients, wild=True))
    assert True in written
    assert False in written[1:]


def check_other_gradients() -> None:
    """Gradients of several types go the plain way, and the next ones do not."""
    pair = Pair(coding=WireCoding())
    generator = torch.Generator().manual_seed(4)
    written = []
    for step in range(4):
        gradients = randoms(generator, torch.float32)
        if step == 2:
            gradients["a"] = gradients["a"].to(torch.float16)
        written.append(pair.step(gradients))
    assert written == [False, True, False, True]


def check_refusal() -> None:
    """A gradient that is not finite is refused by name, and nothing has changed."""
    pair = Pair(coding=WireCoding())
    generator = torch.Generator().manual_seed(5)
    for bad, tensor in itertools.product((math.nan, math.inf), ("c", "bias")):
        pair.step(randoms(generator, torch.float32))
        assert pair.step(randoms(generator, torch.float32))
        broken = {**randoms(generator, torch.float32), "bias": torch.zeros(7, device=DEVICE)}
        broken[tensor].view(-1)[5] = bad
        try:
            pair.fused.accumulate(broken, pair.density)
            pair.fused.sent(pair.density)
        except NonFiniteGradientError as error:
            assert f"gradient of {tensor!r} holds NaN or infinity" in str(error)  # noqa: PT017
        else:
            raise AssertionError(tensor)
        assert pair.same_state()


def main() -> None:
    """Check everything, and say so."""
    # Small chunks, so that a list takes several programs.
    with as_kernels_choose(), mock.patch.object(candidates, "CHUNK", 64):
        check_codings()
        check_clipping()
        check_learning()
        check_wild_steps()
        check_other_gradients()
        check_refusal()
    print("whole equals plain")  # noqa: T201


if __name__ == "__main__":
    main()
