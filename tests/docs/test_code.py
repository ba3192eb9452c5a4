"""Every block of Python and TOML in the documentation runs as it is printed.

What a block takes from its surroundings, such as "model", is made by a text of `BEFORE`.
"""

import ast
import contextlib
import io
import tomllib
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

import dgc_topo as dt
from dgc_topo.experiments.scenario import Scenario
from dgc_topo.workers.launching import call_on
from tests.docs.pages import ROOT, Block, blocks, text_of
from tests.forked import forked

MODEL = """
import torch, torch.distributed as dist
import dgc_topo as dt
model = torch.nn.Linear(20, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
DDP = MODEL + "model = torch.nn.parallel.DistributedDataParallel(model)\n"
BEFORE = {
    "docs/averaging.md": MODEL,
    "docs/checkpoints.md": MODEL
    + """
from pathlib import Path
Path("results/mine/models").mkdir(parents=True)
torch.save(model.state_dict(), "results/mine/models/ring-dense-89fb50-best.pt")
dgc = dt.DGC(model, density=0.1)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)
range = lambda first, last, few=__builtins__["range"]: few(first, 200)
""",
    "docs/hook.md": DDP,
    "docs/optimizer.md": MODEL,
    "docs/own-code.md": MODEL + "loss = torch.ones(())\n",
    "docs/sparse-sums.md": MODEL + "gradient_of_an_embedding = torch.eye(20).to_sparse()\n",
}
#: Pages whose block is a list of ways: each statement by itself.
LISTS = {"docs/averaging.md"}
#: Blocks that other tests run: under a launcher, or in a kernel of a notebook.
ELSEWHERE = {"docs/guides/loop.md", "docs/guides/notebook.md"}
#: Blocks that make the process group themselves.
OWN_GROUP = {"docs/optimizer.md"}


def named(block: Block) -> str:
    return f"{block.page} {block.number}"


@pytest.fixture
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = HashStore()
    join = dist.init_process_group
    start = lambda *_: join("gloo", store=store, rank=0, world_size=1)  # noqa: E731
    monkeypatch.setattr(dist, "init_process_group", start)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


PYTHON = [block for block in blocks("python") if block.page not in ELSEWHERE]


@pytest.mark.parametrize("block", PYTHON, ids=named)
def test_python_runs(block, alone):
    before, parts = BEFORE.get(block.page, ""), [block.code]
    if block.page in LISTS:
        parts = [ast.unparse(each) for each in ast.parse(block.code).body]
    if before and block.page not in OWN_GROUP:
        dist.init_process_group()
    for part in parts:
        names = {"__name__": "__main__", "__builtins__": vars(__import__("builtins"))}
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(before + part, named(block), "exec"), names)


WHOLE = tomllib.loads(next(b.code for b in blocks("toml") if b.page == "docs/scenarios.md"))
#: Blocks that are no part of a scenario, and those that test_reference.py reads.
NETWORKS, REFERENCE = {"docs/guides/network.md"}, {"docs/scenarios.md"}
PARTS = [b for b in blocks("toml") if b.page not in NETWORKS | REFERENCE]


def merged(base, more):
    return base | {
        key: merged(base[key], value) if isinstance(value, dict) and key in base else value
        for key, value in more.items()
    }


def ways(block):
    """Return the parts of a block, each of which is TOML by itself."""
    if block.page not in LISTS:
        return [block.code]
    lines, table = block.code.split("\n\n")
    return [*lines.splitlines(), table]


@pytest.mark.parametrize("block", PARTS, ids=named)
def test_parts_of_scenarios_are_valid(block):
    folder = str(ROOT / "examples" / "own_model")
    for text in ways(block):
        part = tomllib.loads(text)
        inside = part if part.keys() <= WHOLE.keys() | {"averaging"} else {"train": part}
        over = {"topologies": ["ring"]} if "averaging" in part else {}
        whole = merged(WHOLE | over, inside)
        found = Scenario.model_validate(whole, context={"folder": folder, "file": "x.toml"})
        assert found.name == "first"


@pytest.mark.parametrize("block", [b for b in blocks("toml") if b.page in NETWORKS], ids=named)
def test_networks_are_loaded(block, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(block.code)
    assert dt.load_cluster(file).num_ranks == 8


def test_the_network_of_the_guide_is_the_shipped_one_and_takes_what_it_says():
    [block] = [b for b in blocks("toml") if b.page == "docs/guides/network.md"]
    shipped = (ROOT / "networks" / "gpus-in-two-racks.toml").read_text(encoding="utf-8")
    assert tomllib.loads(block.code).items() <= tomllib.loads(shipped).items()
    time = dt.simulate("ring", str(ROOT / "networks" / "gpus-in-two-racks.toml"), "100MB")
    assert f"{time.time_s:.2f} s" in text_of(block.page)
    assert "core -> rack 1" in time.bound_by


def test_the_topology_of_the_guide_is_proved(tmp_path):
    [block] = [b for b in blocks("python") if b.page == "docs/guides/topology.md"]
    file = tmp_path / "star.py"
    file.write_text(block.code)
    assert dt.prove(file, 8).goal == "all-reduce"


@pytest.mark.parametrize("page", sorted(ELSEWHERE))
def test_functions_on_several_workers_end_alike(page):
    """The loop, without its launcher's part; the notebook's cell, whose call is made here."""
    [block] = [b for b in blocks("python") if b.page == page]
    results = call_on(nullcontext(forked()), partial(run_here, block.code), 2)
    assert len(set(results)) == 1


def run_here(code):
    """Run a script where the process group is there already; return its parameters' sum."""
    names: dict[str, Any] = {"__name__": "__main__"}
    code = code.replace('dist.init_process_group("gloo")', "").partition("dist.destroy")[0]
    code = code.replace("dt.launch(train, 4, 0.1)", "4 * [train(0.1)]")
    exec(code, names)
    found = names["states"][0].values() if "states" in names else names["model"].parameters()
    return float(sum(each.double().sum() for each in found)).hex()
