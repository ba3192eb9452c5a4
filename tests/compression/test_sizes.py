"""Bytes: the paper's golden sizes, what is on the wire, and the report of what is compressed."""

import warnings

import pytest
import torch

from dgc_topo.compression.dense import Dense
from dgc_topo.compression.dgc import DGC
from dgc_topo.sizes import dgc_bytes
from dgc_topo.wire.encoding import encode
from tests.compression.workers import constant, dgc_ranks, model, random_like, sparse_of

Shapes = list[tuple[int, ...]]
MIB = 2**20


def resnet50() -> Shapes:
    """He et al., CVPR 2016: bottlenecks of 3, 4, 6 and 3 blocks, batch norm, 1000 classes."""

    def conv_norm(out: int, into: int, size: int) -> Shapes:
        return [(out, into, size, size), (out,), (out,)]

    shapes, channels = conv_norm(64, 3, 7), 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += conv_norm(width, channels, 1) + conv_norm(width, width, 3)
            shapes += conv_norm(4 * width, width, 1)
            if block == 0:
                shapes += conv_norm(4 * width, channels, 1)  # the projection shortcut
            channels = 4 * width
    return [*shapes, (1000, channels), (1000,)]


def alexnet() -> Shapes:
    """Krizhevsky et al., NIPS 2012, with its two groups in layers 2, 4 and 5."""
    weights: Shapes = [
        (96, 3, 11, 11),
        (256, 48, 5, 5),
        (384, 256, 3, 3),
        (384, 192, 3, 3),
        (256, 192, 3, 3),
        (4096, 9216),
        (4096, 4096),
        (1000, 4096),
    ]
    return weights + [shape[:1] for shape in weights]


def ptb_lstm() -> Shapes:
    """Two layers of 1500, 10,000 words, input and output embedding tied."""
    return [(10_000, 1500), (10_000,)] + 2 * [(6000, 1500), (6000, 1500), (6000,), (6000,)]


@pytest.mark.parametrize(
    ("shapes", "mebibytes", "ratio"),
    [(resnet50(), 0.352, 276.7), (alexnet(), 0.389, 597.7), (ptb_lstm(), 0.4215, 461.8)],
    ids=["resnet50", "alexnet", "ptb-lstm"],
)
def test_the_formula_gives_the_papers_sizes_and_ratios(shapes, mebibytes, ratio):
    size = dgc_bytes(shapes, 0.001)
    dense = 4 * sum(torch.Size(shape).numel() for shape in shapes)
    assert size / MIB == pytest.approx(mebibytes, abs=5e-4)
    assert dense / size == pytest.approx(ratio, abs=0.1)


def test_encoded_bytes_counts_values_indices_and_the_dense_part():
    parameters = model()
    gradients = random_like(parameters, torch.Generator().manual_seed(0))
    rank = dgc_ranks(1, parameters, constant(density=0.1))[0]
    payload = rank.compress(gradients)
    message = sparse_of(payload)
    coded = encode(message.indices, message.values, 0, 168)
    assert payload.encoded_bytes() == coded.numel() + 4 * 10
    assert coded.numel() == 12 + 4 * (11 + 6) + -(-17 * 5 // 8)  # gaps of up to 5 bits


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_dense_sends_every_element_in_its_wire_type(dtype, size):
    parameters = model()
    rank = Dense(parameters, wire_dtype=dtype)
    payload = rank.compress(random_like(parameters, torch.Generator().manual_seed(0)))
    assert payload.encoded_bytes() == size * 178
    assert f"{size * 178} bytes per step" in rank.describe()


def test_describe_lists_every_parameter_and_how_it_travels():
    lines = dgc_ranks(1, model(), constant(density=0.1))[0].describe().splitlines()
    assert lines[0] == (
        "dgc at density 0.1 compresses 2 of 5 tensors, 94.38% of 178 elements: "
        "712 -> 132 bytes per step, ratio 5.4"
    )
    rows = {row[0]: row[1:] for row in map(str.split, lines[2:])}
    assert rows["conv.weight"] == ["4x3x3x3", "108", "sparse", "11", "59"]
    assert rows["norm.scale"] == ["scalar", "1", "dense", "1", "4"]
    assert len(rows) == 5


def test_describe_states_the_density_after_the_warm_up():
    assert DGC(model(), num_workers=1).describe().startswith("dgc at density 0.001 ")


def test_compressing_nothing_is_said_out_loud():
    with pytest.warns(UserWarning, match="dgc compresses nothing: .* 0 of 1 tensors"):
        DGC({"bias": torch.zeros(3)}, num_workers=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DGC(model(), num_workers=1)
