"""Values of 8, 4 and 2 bits in the compressors: what they miss stays in residuals, once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dgc_topo as dt
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.dense import Dense
from dgc_topo.compression.updates import UpdateCompressor
from dgc_topo.payload import BundlePayload, DensePayload
from dgc_topo.runtime import run_in_process
from dgc_topo.topology import load_topology
from dgc_topo.wire.coding import COARSE_DTYPES
from tests.compression.workers import model, random_like

NAMES = ["ring", "butterfly", "butterfly:algorithm=doubling", "tree", "mesh"]


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors.values()]).double()


@settings(max_examples=30)
@given(
    name=st.sampled_from(NAMES),
    num=st.integers(1, 5),
    density=st.sampled_from([0.02, 0.2, 0.6]),
    wire_dtype=st.sampled_from(COARSE_DTYPES),
    updates=st.booleans(),
    seed=st.integers(0, 2**31),
    events=st.lists(st.sampled_from(["step", "lost", "absent"]), min_size=1, max_size=5),
)
def test_no_mass_is_lost_by_rounding_sums(name, num, density, wire_dtype, updates, seed, events):
    """Whatever the topology, also where a sum is given up or a rank stays away."""
    settings_ = {"num_workers": num, "density": density, "wire_dtype": wire_dtype}
    ranks: list[dt.DGC | UpdateCompressor] = [
        UpdateCompressor(matrices(), **settings_)
        if updates
        else dt.DGC(matrices(), momentum=0.0, warm_up="none", **settings_)
        for _ in range(num)
    ]
    schedule = load_topology(name).schedule(num)
    generator = torch.Generator().manual_seed(seed)
    made = changed = torch.zeros(len(flat(matrices())), dtype=torch.float64)
    for event in events:
        payloads = []
        for place, rank in enumerate(ranks):
            if event == "absent" and place == 0:
                payloads.append(rank.neutral())
                continue
            given_ = random_like(matrices(), generator)
            made = made + flat(given_) / (num if updates else 1)
            payloads.append(rank.compress(given_))
        run_in_process(schedule, payloads)
        found = [rank.finish(payload) for rank, payload in zip(ranks, payloads, strict=True)]
        assert all(flat(each).equal(flat(found[0])) for each in found)
        if event == "lost":
            for rank in ranks:
                rank.give_back() if isinstance(rank, UpdateCompressor) else rank.take_back()
        else:
            changed = changed + flat(found[0])
        left = torch.stack([flat(rank.residuals()) for rank in ranks]).sum(0)
        torch.testing.assert_close(changed + left, made, rtol=1e-4, atol=1e-4)


def matrices():
    return {name: tensor for name, tensor in model().items() if tensor.dim() > 1}


@pytest.mark.parametrize("wire_dtype", COARSE_DTYPES)
def test_what_travels_dense_is_bfloat16(wire_dtype):
    payload = dt.DGC(
        model(), num_workers=1, density=0.1, warm_up="none", wire_dtype=wire_dtype
    ).compress(random_like(model(), torch.Generator().manual_seed(0)))
    assert isinstance(payload, BundlePayload)
    assert isinstance(payload.parts[1], DensePayload)
    assert payload.parts[1].wire_dtype == "bfloat16"


def test_dense_gradients_of_such_types_are_refused():
    for make in (
        lambda: Dense(model(), wire_dtype="int8"),
        lambda: DensePayload(torch.zeros(3), "int4"),
    ):
        with pytest.raises(ValueError, match=r"is for selected entries, .* one of float32, float1"):
            make()
    with pytest.raises(ValueError, match="wire_dtype 'int2' with density 1"):
        DGCConfig(density=1.0, wire_dtype="int2")
    with pytest.raises(ValueError, match="index_encoding 'dense' with wire_dtype 'int8'"):
        DGCConfig(density=0.1, wire_dtype="int8", index_encoding="dense")


def test_a_server_that_does_not_train_is_refused():
    ranks = [dt.DGC(model(), num_workers=2, density=0.1, warm_up="none", wire_dtype="int8")] * 3
    payloads = [rank.neutral() for rank in ranks]
    schedule = load_topology("parameter-server", server="dedicated").schedule(3)
    with pytest.raises(ValueError, match="is a server, which has no residual for what it rounds"):
        run_in_process(schedule, payloads)
