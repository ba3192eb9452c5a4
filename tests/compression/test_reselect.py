"""Re-selection keeps the best of the sum and loses nothing, over every all-reduce topology."""

import pytest
import torch

from dgc_topo.runtime import run_in_process
from dgc_topo.schedule.completion import completion_of
from dgc_topo.sizes import entries_of
from dgc_topo.topology import load_topology
from tests.compression.test_mass import Reference, flat
from tests.compression.workers import constant, dgc_ranks, random_like, sparse_of

PARAMETERS = {"a": torch.zeros(11, 7), "b": torch.zeros(30, 3)}
ALL_REDUCES = [
    ("ring", {}),
    ("tree", {}),
    ("mesh", {}),
    ("parameter-server", {}),
    ("sharded-parameter-server", {}),
    ("butterfly", {"algorithm": "doubling"}),
    ("butterfly", {"algorithm": "halving-doubling"}),
    ("hierarchical", {"group_size": 2}),
]


@pytest.mark.parametrize(
    ("merge", "scope"), [("reselect", "layer"), ("reselect", "model"), ("auto", "layer")]
)
@pytest.mark.parametrize("world_size", [1, 4, 6])
@pytest.mark.parametrize(("name", "options"), ALL_REDUCES)
def test_applied_plus_residuals_is_all_that_was_accumulated(
    name, options, world_size, scope, merge
):
    schedule = load_topology(name, options).schedule(world_size)
    config = constant(density=0.05, merge=merge, scope=scope)
    ranks = dgc_ranks(world_size, PARAMETERS, config)
    length = flat(PARAMETERS).numel()
    references = [Reference(length, 0.9, nesterov=False, masking=True) for _ in ranks]
    applied = torch.zeros(length, dtype=torch.float64)
    generator = torch.Generator().manual_seed(8)
    sent = kept = 0
    for _ in range(8):
        gradients = [random_like(PARAMETERS, generator) for _ in ranks]
        payloads = [r.compress(g) for r, g in zip(ranks, gradients, strict=True)]
        for reference, gradient, payload in zip(references, gradients, payloads, strict=True):
            reference.add(flat(gradient))
            reference.mask(sparse_of(payload).indices)
        run_in_process(schedule, payloads)
        updates = [r.finish(p) for r, p in zip(ranks, payloads, strict=True)]
        for other in updates[1:]:
            assert all(other[name].equal(updates[0][name]) for name in PARAMETERS)
        applied += flat(updates[0])
        sent += sum(entries_of(size, 0.05) for size in ([167] if scope == "model" else [77, 90]))
        kept += int(flat(updates[0]).count_nonzero())
        left = torch.stack([flat(rank.residuals()) for rank in ranks]).sum(0)
        everything = torch.stack([reference.accumulated for reference in references]).sum(0)
        torch.testing.assert_close(applied + left, everything, rtol=1e-4, atol=1e-4)
    sends_on = completion_of(schedule).is_passed_on.all()
    if world_size == 1 or merge == "reselect" or sends_on:
        assert 0.6 * sent < kept <= sent
    else:
        assert kept > 2 * sent


def test_a_second_finish_gives_nothing_back_twice():
    ranks = dgc_ranks(2, PARAMETERS, constant(density=0.05, merge="reselect"))
    generator = torch.Generator().manual_seed(8)
    payloads = [rank.compress(random_like(PARAMETERS, generator)) for rank in ranks]
    run_in_process(load_topology("ring").schedule(2), payloads)
    ranks[0].finish(payloads[0])
    residual = flat(ranks[0].residuals())
    again = ranks[0].finish(payloads[0])
    assert flat(ranks[0].residuals()).equal(residual)
    assert int(flat(again).count_nonzero()) == 4 + 4


def test_a_server_that_does_not_train_has_no_place_for_what_it_rejects():
    schedule = load_topology("parameter-server", {"server": "dedicated"}).schedule(3)
    generator = torch.Generator().manual_seed(8)
    for merge in ("reselect", "auto"):
        ranks = dgc_ranks(3, PARAMETERS, constant(density=0.05, merge=merge))
        payloads = [rank.compress(random_like(PARAMETERS, generator)) for rank in ranks[:2]]
        payloads.append(ranks[2].neutral())
        if merge == "reselect":
            with pytest.raises(ValueError, match=r"chunk 0 is completed by a server.* or 'auto'"):
                run_in_process(schedule, payloads)
            continue
        run_in_process(schedule, payloads)
        first, _, served = (r.finish(p) for r, p in zip(ranks, payloads, strict=True))
        assert all(served[name].equal(first[name]) for name in PARAMETERS)
        assert int(flat(first).count_nonzero()) > 8  # the exact union


def test_a_step_that_is_given_up_gives_back_what_was_sent_and_nothing_that_was_rejected():
    ranks = dgc_ranks(3, PARAMETERS, constant(density=0.05, merge="reselect"))
    generator = torch.Generator().manual_seed(8)
    for _ in range(3):
        before = [flat(rank.residuals()) + 0 for rank in ranks]
        velocities = [flat(rank.velocities()) + 0 for rank in ranks]
        gradients = [random_like(PARAMETERS, generator) for _ in ranks]
        payloads = [r.compress(g) for r, g in zip(ranks, gradients, strict=True)]
        run_in_process(load_topology("butterfly").schedule(3), payloads)
        for rank, payload in zip(ranks, payloads, strict=True):
            rank.finish(payload)
            rank.take_back()
            rank.take_back()
        for at, rank in enumerate(ranks):
            expected = before[at] + 0.9 * velocities[at] + flat(gradients[at])
            torch.testing.assert_close(flat(rank.residuals()), expected, rtol=1e-6, atol=1e-6)


def test_density_1_applies_everything():
    ranks = dgc_ranks(2, PARAMETERS, constant(density=1, merge="reselect"))
    gradients = random_like(PARAMETERS, torch.Generator().manual_seed(8))
    payloads = [rank.compress(gradients) for rank in ranks]
    run_in_process(load_topology("ring").schedule(2), payloads)
    assert flat(ranks[0].finish(payloads[0])).equal(2 * flat(gradients))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"density": 0.5}, 0.5),
        ({"density": 0.95}, 0.95),
        ({"density": 0.98}, 1.0),  # a bitmap's bit per element is more than what is left out
        ({"density": 0.98, "wire_dtype": "bfloat16"}, 1.0),
        ({"density": 0.45, "index_encoding": "int32"}, 0.45),
        ({"density": 0.55, "index_encoding": "int32"}, 1.0),
        ({"density": 0.98, "wire_dtype": "int8"}, 0.98),
    ],
    ids=str,
)
def test_auto_sends_a_step_dense_where_its_entries_would_take_no_fewer_bytes(settings, expected):
    parameters = {"w": torch.zeros(100, 100)}
    schedule = load_topology("sharded-parameter-server").schedule(3)
    generator = torch.Generator().manual_seed(8)
    for merge in ("reselect", "auto"):
        ranks = dgc_ranks(3, parameters, constant(merge=merge, **settings))
        assert ranks[0].density == (expected if merge == "auto" else settings["density"])
    gradients = [random_like(parameters, generator) for _ in ranks]
    payloads = [rank.compress(each) for rank, each in zip(ranks, gradients, strict=True)]
    assert type(ranks[0].neutral()) is type(payloads[0])
    run_in_process(schedule, payloads)
    updates = [r.finish(p) for r, p in zip(ranks, payloads, strict=True)]
    assert all(each["w"].equal(updates[0]["w"]) for each in updates)
    left = torch.stack([rank.residuals()["w"] for rank in ranks]).sum(0)
    exact = torch.stack([gradient["w"] for gradient in gradients]).sum(0)
    loose = settings.get("wire_dtype", "float32") != "float32"
    torch.testing.assert_close(updates[0]["w"] + left, exact, rtol=0, atol=0.05 if loose else 1e-5)
    if expected == 1 and not loose:
        assert not left.any()
