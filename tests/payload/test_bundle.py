from fractions import Fraction

import pytest
import torch
from hypothesis import given

from dgc_topo.payload import Arrival, BundlePayload, DensePayload, SparsePayload
from dgc_topo.schedule import Transfer
from tests.payload.reference import Case, cases, deliver, dense, sparse

ONE = Fraction(1)


@given(cases())
def test_every_part_merges_as_if_alone(case: Case):
    """Parts of known and unknown size, aligned or not, in one message."""
    bundles = [
        BundlePayload([dense(b), sparse(b), DensePayload(b.clone(), "float16"), sparse(b)])
        for b in case.buffers
    ]
    deliver(case, bundles)
    expected = case.expected()
    for part in bundles[case.rank].parts:
        if isinstance(part, SparsePayload):
            assert torch.equal(part.to_dense(), expected)
        else:
            assert isinstance(part, DensePayload)
            assert torch.equal(part.buffer, expected)


@given(cases())
def test_bundles_nest(case: Case):
    bundles = [
        BundlePayload([BundlePayload([sparse(b), dense(b)]), dense(b)]) for b in case.buffers
    ]
    deliver(case, bundles)
    inner = bundles[case.rank].parts[0]
    assert isinstance(inner, BundlePayload)
    assert isinstance(inner.parts[0], SparsePayload)
    assert torch.equal(inner.parts[0].to_dense(), case.expected())


def test_the_size_is_known_if_every_part_knows_its_own():
    known = BundlePayload([dense(torch.zeros(3)), dense(torch.zeros(4))])
    unknown = BundlePayload([dense(torch.zeros(3)), sparse(torch.zeros(4))])
    assert known.message_bytes(0, 1) == known.pack(0, 1).numel() == 16 + 16
    assert unknown.message_bytes(0, 1) is None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (torch.zeros(4, dtype=torch.uint8), "expected at least 8"),
        (torch.tensor([16]).view(torch.uint8), "expected 40 for parts of"),
        (torch.tensor([-8, 0, 0]).view(torch.uint8), "for parts of"),
    ],
    ids=["no header", "too short", "negative size"],
)
def test_refuses_a_message_that_is_no_bundle(message: torch.Tensor, expected: str):
    bundle = BundlePayload([dense(torch.zeros(3)), sparse(torch.zeros(4))])
    with pytest.raises(ValueError, match=expected):
        bundle.merge([Arrival(Transfer(1, 0, 0, 1, ONE, ONE), message)], 0)


def test_refuses_to_be_empty():
    with pytest.raises(ValueError, match="0 parts on devices"):
        BundlePayload([])


def test_refuses_parts_on_different_devices():
    parts = [dense(torch.zeros(3)), DensePayload(torch.zeros(3, device="meta"))]
    with pytest.raises(ValueError, match=r"devices \['cpu', 'meta'\], expected .* one device"):
        BundlePayload(parts)
