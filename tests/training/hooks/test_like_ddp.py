"""A hook that loses nothing trains as DDP's own all-reduce does, up to its rounding."""

import pytest

from tests.training.hooks import jobs

#: Nothing is compressed; or everything is sent, as entries, with momentum in the hook.
DENSE = {"density": 1.0}
ALL_ENTRIES = {"density": 0.99999, "masking": False}
MOMENTUM = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}


def check(found: list[list[jobs.Likeness]]) -> None:
    """Accept some times the difference that other buckets make to plain DDP."""
    for likenesses in found:
        for each in likenesses:
            assert each.same
            assert each.difference <= 10 * each.noise + 1e-6


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_sgd_over_any_topology(workers, world_size):
    hooks = [
        {"topology": topology} | density
        for topology in ("ring", "butterfly", "tree", "parameter-server", "mesh")
        for density in (DENSE, ALL_ENTRIES)
    ]
    check(workers.run(world_size, jobs.likeness_of, hooks, {"settings": MOMENTUM, "steps": 10}))


@pytest.mark.parametrize(
    "ddp",
    [
        {"find_unused_parameters": True},
        {"find_unused_parameters": True, "gradient_as_bucket_view": True},
        {"static_graph": True},
        {"find_unused_parameters": True, "bucket_cap_mb": 25},
    ],
    ids=str,
)
def test_odd_parameters_in_every_kind_of_ddp(workers, ddp):
    """Tied, frozen and unused ones, channels-last; accumulated without sync, and clipped."""
    settings = {"net": jobs.Odd, "settings": MOMENTUM, **ddp, "clip": 0.5}
    settings["micro_steps"] = 1 if "static_graph" in ddp else 3
    hooks = [DENSE, {"topology": "tree"} | DENSE]
    check(workers.run(3, jobs.likeness_of, hooks, settings))
    settings.pop("clip")  # clips what the momentum made of it, and DDP before
    check(workers.run(3, jobs.likeness_of, [ALL_ENTRIES], settings))


@pytest.mark.parametrize("optimizer", ["AdamW", "RMSprop"])
def test_other_optimizers(workers, optimizer):
    settings = {"optimizer": optimizer, "settings": {"lr": 1e-3}, "micro_steps": 2}
    check(workers.run(2, jobs.likeness_of, [DENSE, ALL_ENTRIES], settings))
