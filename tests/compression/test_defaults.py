"""State and scratch are what they say, whatever torch's default type and device are."""

import ast
import functools
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dgc_topo.compression.after_sum import SGDSettings
from dgc_topo.compression.dense import Dense
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.random_k import RandomK
from dgc_topo.compression.terngrad import TernGrad
from dgc_topo.compression.threshold import Goal, Tail
from dgc_topo.runtime import run_in_process
from dgc_topo.topology import load_topology
from tests.compression.workers import constant
from tests.defaults import VARIABLE, defaults

PACKAGE = Path(__file__).parents[2] / "dgc_topo"
#: Where tensors are made that a user's defaults could change.
FOLDERS = ("compression", "payload", "wire", "runtime", "workers")
#: What makes a tensor of the default type, or on the default device, unless told.
FACTORIES = {
    *("arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "logspace", "ones"),
    *("rand", "randint", "randn", "randperm", "scalar_tensor", "tensor", "zeros"),
}
SHAPES: dict[str, tuple[int, ...]] = {
    "w": (30, 20),
    "b": (20,),
    "v": (7, 3, 2),
    "s": (),
    "u": (9, 1),
}
LAW: dict[str, Any] = {"clip_norm": 2.0, "weight_decay": 0.1}


def dgc(**settings):
    config = constant(**{"density": 0.05, **settings})
    return lambda parameters, _, n: DGC(parameters, num_workers=n, config=config)


MAKERS = {
    **{
        f"dgc-{selection}-{scope}-{merge}": dgc(
            selection=selection, scope=scope, merge=merge, **LAW
        )
        for selection in ("exact", "sampled", "reused")
        for scope in ("layer", "model")
        for merge in ("union", "reselect")
    },
    "dgc-all": dgc(density=1.0),
    "dgc-nesterov": dgc(nesterov=True, **LAW),
    "dgc-naive": dgc(accumulation=False),
    "dgc-dropping": dgc(momentum_correction=False, weight_decay=0.1),
    "dgc-float16": dgc(wire_dtype="float16"),
    "dgc-bitmap": dgc(wire_dtype="bfloat16", index_encoding="bitmap"),
    "dgc-separate": dgc(weight_decay=0.1, weight_decay_mode="separate"),
    "dgc-decoupled": dgc(weight_decay=0.1, weight_decay_mode="decoupled"),
    "dgc-stale": dgc(clear_velocities="stale", clear_every_steps=2),
    "dense": lambda p, _, __: Dense(p, nesterov=True, **LAW),
    "dense-float16": lambda p, _, __: Dense(p, wire_dtype="float16"),
    "terngrad": lambda p, rank, _: TernGrad(p, rank=rank, sgd=SGDSettings(**LAW)),
    "random-k": lambda p, _, __: RandomK(p, density=0.1, sgd=SGDSettings(**LAW)),
}


@pytest.fixture(scope="module", autouse=True)
def _without_caches():
    """What was made before, under the usual defaults, must not help."""
    for each in gc.get_objects():
        if type(each) is functools._lru_cache_wrapper and "dgc_topo" in each.__module__:
            each.cache_clear()


def trained(maker, dtype: torch.dtype, schedule) -> list[torch.Tensor]:
    """Return whatever two workers come to in a few steps."""
    generator = torch.Generator().manual_seed(0)

    def drawn() -> dict[str, torch.Tensor]:
        return {
            name: torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").to(
                dtype
            )
            for name, shape in SHAPES.items()
        }

    parameters, found = drawn(), []
    ranks = [maker(parameters, rank, 2) for rank in range(2)]
    for _ in range(4):
        payloads = [rank.compress(drawn()) for rank in ranks]
        run_in_process(schedule, payloads)
        for rank, payload in zip(ranks, payloads, strict=True):
            found += [update.clone() for update in rank.finish(payload).values()]
    payloads = [ranks[0].compress(drawn()), ranks[1].neutral()]
    run_in_process(schedule, payloads)
    found += ranks[1].finish(payloads[1]).values()
    for rank in ranks:
        state = [section for section in rank.state_dict().values() if isinstance(section, dict)]
        found += [tensor for section in state for tensor in section.values()]
        assert rank.describe()
        assert payloads[0].encoded_bytes()
    return found


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())
def test_every_compressor_does_the_same_to_the_bit_under_any_defaults(maker):
    schedule = load_topology("ring").schedule(2)
    for dtype, other_types in {
        torch.float32: (torch.float64, torch.bfloat16),
        torch.float64: (torch.bfloat16,),
        torch.bfloat16: (torch.float64,),
    }.items():
        others = []
        for other in other_types:
            with defaults(other, "meta"):
                others.append(trained(maker, dtype, schedule))
        expected = trained(maker, dtype, schedule)
        for found in others:
            assert all(
                a.equal(b) and a.dtype == b.dtype for a, b in zip(found, expected, strict=True)
            )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_thresholds_learn_the_same_to_the_bit_under_any_default_type(dtype):
    """They decide what a search costs, not what is sent: no update would tell."""

    def learned() -> Tail:
        tail = Tail.of(3, torch.device("cpu"))
        magnitudes = torch.tensor([0.3, 0.7, 0.11], dtype=torch.float32, device="cpu")
        counts = torch.tensor([7, 90, 3], dtype=torch.int64, device="cpu")
        for _ in range(5):
            tail.learn(magnitudes, 1.1 * magnitudes, 2 * counts + 1, counts, Goal(1.3, 8, 8, 3))
        return tail

    with defaults(dtype, "meta"):
        found = learned()
    for name in ("slack", "aim", "width"):
        assert getattr(found, name).equal(getattr(learned(), name))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_mass_is_conserved_to_float32_rounding_under_any_default_type(dtype):
    with defaults(dtype, "meta"):
        config = constant(density=0.1, momentum=0.0)
        rank = DGC({"w": torch.zeros(20, 10, device="cpu")}, num_workers=1, config=config)
        generator = torch.Generator().manual_seed(0)
        total = torch.zeros(20, 10, dtype=torch.float64, device="cpu")
        for _ in range(20):
            gradient = torch.randn(20, 10, generator=generator, dtype=torch.float32, device="cpu")
            total += gradient
            total -= rank.finish(rank.compress({"w": gradient}))["w"]
        assert float((rank.residuals()["w"] - total).abs().max()) < 1e-5


def calls_in(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def test_every_tensor_is_made_with_its_type_and_device():
    """Kernels' tables, and whatever no test reaches here, as well."""
    told, careless = 0, []
    for path in (path for folder in FOLDERS for path in (PACKAGE / folder).rglob("*.py")):
        for call in calls_in(path):
            if not (isinstance(call.func, ast.Attribute) and call.func.attr in FACTORIES):
                continue
            if isinstance(call.func.value, ast.Name) and call.func.value.id == "torch":
                told += 1
                if not {"dtype", "device"} <= {keyword.arg for keyword in call.keywords}:
                    careless.append(f"{path.relative_to(PACKAGE)}:{call.lineno}")
    assert told > 50
    assert not careless


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("others", "folder", "names"),
    [
        ("float64 meta", "compression", ("state", "dgc_steps", "ages", "errors", "after_sum")),
        ("bfloat16 meta", "payload", ("dense", "sparse", "bundle", "union")),
    ],
)
def test_the_tests_of_compressors_and_payloads_pass_under_other_defaults(others, folder, names):
    """Those that take little time."""
    slow = "unbiased or payload_runs_again or taken_in_rank_order or butterfly or mesh"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-n0", "-p", "tests.defaults"),
            *("-p", "no:cacheprovider", "-m", "not slow", "-k", f"not ({slow})"),
            *(f"tests/{folder}/test_{name}.py" for name in names),
        ],
        env={**os.environ, VARIABLE: others},
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
