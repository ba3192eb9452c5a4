"""Coarse values: steps of a scale are found again, and no section misses more than a quarter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgc_topo.wire import coarse
from dgc_topo.wire.coding import COARSE_DTYPES, WireCoding, WireDtype
from dgc_topo.wire.decoding import decode_scaled
from dgc_topo.wire.encoding import encode
from dgc_topo.wire.format import DTYPE_CODES
from dgc_topo.wire.scales import (
    MOST_ERROR,
    MOST_LEVEL,
    Scales,
    levels_of,
    narrowest,
    pack_values,
    rounded,
    sections_of,
    values_of,
)
from tests.wire import reference

BOUNDS = (5, 40, 41)


@st.composite
def entries(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Return entries of 100 elements, of one size, of two, spread evenly, or over many decades."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    places = np.flatnonzero(rng.random(100) < draw(st.sampled_from([0.0, 0.05, 0.5, 1.0])))
    signs = rng.choice([-1.0, 1.0], len(places))
    sizes = {
        "one": np.ones(len(places)),
        "two": rng.choice([0.3, 1.0], len(places)),
        "even": rng.random(len(places)),
        "many": 10 ** rng.uniform(-6, 3, len(places)),
        "zeros": rng.choice([0.0, 1.0, 1.7], len(places)),
    }[draw(st.sampled_from(["one", "two", "even", "many", "zeros"]))]
    scale = draw(st.sampled_from([1e-30, 1e-4, 1.0, 1e30]))
    return torch.from_numpy(places), torch.from_numpy((signs * sizes * scale).astype(np.float32))


@settings(max_examples=150)
@given(entries(), st.sampled_from(COARSE_DTYPES))
def test_no_section_misses_more_than_a_quarter_and_steps_are_found_again(given_, wire_dtype):
    indices, values = given_
    found, scales = rounded(indices, values, BOUNDS, wire_dtype)
    sections = sections_of(indices, BOUNDS)
    for section in range(len(BOUNDS) + 1):
        here = sections == section
        size = values[here].double().norm()
        missed = (found - values)[here].double().norm()
        assert missed <= (MOST_ERROR + 1e-3) * size
    assert (found.signbit() == values.signbit()).all()
    levels = levels_of(found, scales, sections, MOST_LEVEL)
    assert torch.equal(values_of(levels, found.signbit(), scales, sections), found)
    message = encode(indices, found, 0, 100, WireCoding(wire_dtype=wire_dtype), scales)
    read = decode_scaled(message, 0, 100, BOUNDS)
    assert torch.equal(read.values.view(torch.int32), found.view(torch.int32))
    again = encode(
        read.indices, read.values, 0, 100, WireCoding(wire_dtype=wire_dtype), read.scales
    )
    assert torch.equal(again, message)


def test_what_two_magnitudes_would_miss_takes_wider_values():
    """The guard: sums of one, two and twenty ranks' entries have no two magnitudes in common."""
    indices, coding = torch.arange(32), WireCoding(wire_dtype="int2")
    took = {}
    for name, sizes in {"fits": [1.0, 1.1, 2.0, 2.1], "does not": [1.0, 2.0, 20.0, 40.0]}.items():
        message = encode(indices, torch.tensor(sizes).repeat(8), 0, 1000, coding)
        took[name] = int(message[2]) >> 4
    assert took == {"fits": DTYPE_CODES["int2"], "does not": DTYPE_CODES["int4"]}


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("wire_dtype", COARSE_DTYPES)
def test_a_value_that_is_not_finite_makes_its_section_so(wire_dtype: WireDtype, odd: float):
    values = torch.tensor([1.0, odd, 2.0, 3.0])
    found, _ = rounded(torch.tensor([0, 1, 6, 7]), values, BOUNDS, wire_dtype)
    assert found[:2].isnan().all()
    assert found[2:].isfinite().all()


@pytest.mark.parametrize("count", [0, 1, 6, 4095, 4097, 40_000])
@pytest.mark.parametrize("wire_dtype", COARSE_DTYPES)
@pytest.mark.parametrize("bounds", [(), (3, 3, 20_000), (20_001, 100_000)])
def test_numpy_codes_the_same_bytes_as_torch(count, wire_dtype, bounds):
    """In few pieces or many, with empty sections and long ones, and with sections of one size."""
    generator = torch.Generator().manual_seed(count)
    indices = torch.randperm(120_000, generator=generator)[:count].sort().values
    values = torch.randn(count, generator=generator).mul_(0.1)
    values += values.sign()
    values[indices < 3] = -2.5
    found, scales = rounded(indices, values, bounds, wire_dtype)
    sections, table = sections_of(indices, bounds), coarse.table_of(scales)
    packed, took = coarse.steps_of(indices.numpy(), found.numpy(), table, bounds, wire_dtype)
    levels = levels_of(found, scales, sections, MOST_LEVEL)
    assert took == narrowest(levels, wire_dtype)
    assert packed.tolist() == pack_values(levels, found.signbit(), took).tolist()
    coded = np.empty(4 * len(table), np.uint8)
    coarse.write_table(table, coded)
    scaled = coarse.values_in(packed, indices.numpy(), coded, bounds, took)
    assert scaled is not None
    assert torch.equal(torch.from_numpy(scaled[0]), found)
    assert torch.equal(scaled[1].low, scales.low)
    assert torch.equal(scaled[1].step, scales.step)


@pytest.mark.parametrize("count", [8, 5000])
@pytest.mark.parametrize("scale", [(3e38, 3e37), (1.0, -1e37), (float("inf"), 1.0), (1.0, 3e38)])
def test_steps_that_leave_the_range_are_cut_off(count, scale):
    """Whoever sends such scales: small messages and large ones take the general way then."""
    indices = torch.arange(count)
    levels, negative = indices % 128, indices % 3 == 1
    sections, one = torch.zeros_like(indices), torch.ones(1)
    values = values_of(levels, negative, Scales((), one, one), sections)
    coding = WireCoding("rice", "int8")
    sent = encode(indices, values, 0, count, coding, Scales((), one, one)).numpy().tobytes()
    low, step = (torch.tensor([each]).to(torch.bfloat16) for each in scale)
    table = torch.cat([low, step]).view(torch.uint8).numpy().tobytes()
    sent = reference.sealed(sent[:12] + table + sent[16:], count)
    read = decode_scaled(torch.frombuffer(bytearray(sent), dtype=torch.uint8), 0, count)
    assert read.scales == Scales((), low.to(torch.float32), step.to(torch.float32))
    assert torch.equal(read.values, values_of(levels, negative, read.scales, sections))
    assert (read.values.abs() <= torch.finfo(torch.float32).max).all()
