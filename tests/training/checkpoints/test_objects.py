"""`dt.save` and `dt.load` in a loop of one's own."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore

import dgc_topo as dt
from dgc_topo.liveness import Liveness
from dgc_topo.training.checkpoints.errors import CheckpointError
from dgc_topo.training.checkpoints.shares import share_of
from dgc_topo.workers.seat import Seat


class Loop:
    """A small training with everything that has state."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
        self.dgc = dt.DGC(self.model, num_workers=1, density=0.1, warm_up="none")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 20)
        self.generator = torch.Generator().manual_seed(7)

    @property
    def objects(self) -> dict[str, Any]:
        return vars(self)

    def step(self) -> None:
        noise = torch.randn(16, 8)  # of the process, as dropout's
        inputs = torch.randn(16, 8, generator=self.generator) + 0.1 * noise
        self.optimizer.zero_grad()
        self.model(inputs).square().mean().backward()
        payload = self.dgc.compress({n: p.grad for n, p in self.model.named_parameters()})
        for name, update in self.dgc.finish(payload).items():
            self.model.get_parameter(name).grad = update
        self.optimizer.step()
        self.schedule.step()

    def bits(self) -> list[bytes]:
        return [t.numpy().tobytes() for t in self.model.state_dict().values()]


def test_a_loop_goes_on_with_the_same_bits(tmp_path):
    whole = Loop()
    for _ in range(10):
        whole.step()
    first = Loop()
    for step in range(6):
        first.step()
        dt.save(tmp_path / "run", **first.objects, step=step + 1, notes={"a": [1, None]})
    assert len(list((tmp_path / "run").iterdir())) == 2  # the last one, and that before
    del first
    torch.manual_seed(12345)
    again = Loop()
    assert dt.has_checkpoint(tmp_path / "run")
    values = dt.load(tmp_path / "run", **again.objects, step=0, notes=None)
    assert values == {"step": 6, "notes": {"a": [1, None]}}
    for _ in range(values["step"], 10):
        again.step()
    assert again.bits() == whole.bits()


@pytest.mark.parametrize("alike", [True, False])
def test_generators_go_on_where_their_ranks_were_before(alike):
    former = [torch.Generator().manual_seed(3 if alike else rank) for rank in range(3)]
    first = [float(torch.rand(1, generator=each)) for each in former]
    states = [each.get_state() for each in former]
    drawn = []
    for rank in range(5):
        own = torch.Generator().manual_seed(100 + rank)
        own.set_state(share_of("draws", own, states, Seat(rank, 5), set()))
        drawn.append(float(torch.rand(1, generator=own)))
    expected = [float(torch.rand(1, generator=each)) for each in former]
    if alike:
        assert drawn == expected[:1] * 5
    else:
        assert drawn[:3] == expected
        assert len({*first, *drawn}) == 8  # nobody draws what another one does


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    loop = Loop()
    loop.step()
    dt.save(tmp_path / "run", **loop.objects, step=1)
    return tmp_path / "run"


def narrow() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 15), nn.BatchNorm1d(15), nn.Linear(15, 4))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"step": ...}, r"missing \['step'\], unknown \[\]"),
        ({"more": 1}, r"missing \[\], unknown \['more'\]"),
        ({"model": narrow()}, r"model: '0.weight' is \(16, 8\), expected \(15, 8\)"),
        ({"model": nn.Linear(8, 16)}, r"model: .*on one side only"),
        (
            {"optimizer": torch.optim.AdamW([nn.Parameter(torch.ones(2))])},
            r"optimizer: groups of \[6\] parameters, expected \[1\]",
        ),
        (
            {"optimizer": torch.optim.AdamW(narrow().parameters())},
            r"optimizer: exp_avg of parameter 0 is \(16, 8\), expected \(15, 8\)",
        ),
        ({"dgc": dt.DGC(narrow(), num_workers=1, density=0.1)}, r"dgc: dgc state 'velocity'"),
    ],
)
def test_what_does_not_fit_is_an_error_before_anything_changes(saved, change, says):
    loop = Loop()
    loop.step()
    loop.step()
    bits, rate = loop.bits(), loop.optimizer.param_groups[0]["lr"]
    moments = loop.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    draws = loop.generator.get_state(), torch.get_rng_state()
    given = {**loop.objects, "step": 0} | change
    given = {name: each for name, each in given.items() if each is not ...}
    with pytest.raises(CheckpointError, match=says):
        dt.load(saved, **given)
    assert loop.bits() == bits
    assert loop.optimizer.param_groups[0]["lr"] == rate
    assert torch.equal(loop.optimizer.state_dict()["state"][0]["exp_avg"], moments)
    assert torch.equal(loop.generator.get_state(), draws[0])
    assert torch.equal(torch.get_rng_state(), draws[1])


def test_nothing_saved_is_an_error(tmp_path):
    assert not dt.has_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"holds no checkpoint, expected one that dt\.save"):
        dt.load(tmp_path / "none", step=0)


def test_values_that_need_code_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"step: a set, expected tensors, numbers"):
        dt.save(tmp_path / "run", step={1, 2})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("deep", [True, False])
def test_what_holds_itself_or_has_no_end_is_refused_and_nothing_is_written(tmp_path, deep):
    value: list[Any] = []
    for _ in range(5000 if deep else 0):
        value = [value]
    if not deep:
        value.append({"again": value})
    with pytest.raises(ValueError, match=r"^notes.*: is nested deeper than 100, or holds itself"):
        dt.save(tmp_path / "run", notes=value)
    assert not (tmp_path / "run").exists()


def test_a_newest_checkpoint_that_is_broken_is_said_and_does_not_push_out_the_one_before(tmp_path):
    for step in range(3):
        dt.save(tmp_path, step=step)
    before, newest = sorted(tmp_path.glob("set-*"))
    whole = (newest / "process-0.pt").read_bytes()
    (newest / "process-0.pt").write_bytes(whole[:-50])
    with pytest.warns(UserWarning, match=r"left out, the one before is used: .*process-0\.pt"):
        assert dt.load(tmp_path, step=0) == {"step": 1}
    dt.save(tmp_path, step=3)
    assert sorted(tmp_path.glob("set-*")) == [before, tmp_path / "set-000004"]
    # A folder that begins anew has other sets by the same numbers.
    for each in tmp_path.glob("set-*"):
        shutil.rmtree(each)
    for step in range(4):
        dt.save(tmp_path, step=step)
        assert dt.load(tmp_path, step=0) == {"step": step}
    assert len(list(tmp_path.glob("set-*"))) == 2


def test_the_state_of_something_else_is_named(tmp_path):
    """What was saved under a name as another kind of object is refused, and nothing changes."""
    model = torch.nn.Linear(4, 2)
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 4)).sum().backward()
    sgd.step()
    adam = torch.optim.Adam(model.parameters())
    dt.save(tmp_path, a=model, b=sgd, c=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for others, what in (
        ({"a": sgd, "b": sgd, "c": 0}, "a: is SGD, expected Linear, as it was saved"),
        ({"a": model, "b": adam, "c": 0}, "b: is Adam, expected SGD, as it was saved"),
        ({"a": model, "b": sgd, "c": model}, "c: what was saved does not fit Linear"),
    ):
        with pytest.raises(ValueError, match=what):
            dt.load(tmp_path, **others)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not adam.state


def test_another_kind_of_optimizer_or_schedule_is_refused_before_anything_changes(tmp_path):
    """Torch takes such a state, and fails, or learns something else, in a later step."""
    model = nn.Linear(4, 2)
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    dt.save(tmp_path, optimizer=sgd, schedule=torch.optim.lr_scheduler.StepLR(sgd, 5))
    adamw = torch.optim.AdamW(model.parameters())
    step, cosine = (
        torch.optim.lr_scheduler.StepLR(adamw, 5),
        torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 9),
    )
    before = adamw.state_dict(), cosine.state_dict()
    with pytest.raises(CheckpointError, match="optimizer: is AdamW, expected SGD, as it was saved"):
        dt.load(tmp_path, optimizer=adamw, schedule=step)
    with pytest.raises(CheckpointError, match="schedule: is CosineAnnealingLR, expected StepLR"):
        dt.load(tmp_path, optimizer=sgd, schedule=cosine)
    assert (adamw.state_dict(), cosine.state_dict()) == before


def test_another_rule_is_refused_and_the_model_is_as_it_was(tmp_path):
    """The update rule keeps the parameters, too, and would follow those that are put back."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        model, other = nn.Linear(4, 2), nn.Linear(4, 2)
        sgd = torch.optim.SGD(other.parameters(), 0.1)
        dt.save(tmp_path, model=other, optimizer=dt.DistributedOptimizer(sgd, other, density=0.5))
        before = [p.detach().clone() for p in model.parameters()]
        adamw = torch.optim.AdamW(model.parameters())
        optimizer = dt.DistributedOptimizer(adamw, model, density=0.5)
        with pytest.raises(CheckpointError, match="rule 'momentum correction', expected 'update'"):
            dt.load(tmp_path, model=model, optimizer=optimizer)
        assert all(map(torch.equal, model.parameters(), before))
        with optimizer.shared_parameters():
            assert all(map(torch.equal, model.parameters(), before))
    finally:
        dist.destroy_process_group()


def test_a_model_that_torch_could_not_load_again_is_refused_at_once(tmp_path):
    model = nn.Linear(4, 2)
    model.register_buffer("mask", torch.ones(1, 2).expand(3, 2))
    with pytest.raises(ValueError, match=r"model: elements of 'mask' share memory .*its clone"):
        dt.save(tmp_path / "run", model=model)
    assert not (tmp_path / "run").exists()
    one = torch.ones(()).expand(1)  # whose stride is 0, too
    dt.save(tmp_path / "run", value=model.mask, one=one)
    found = dt.load(tmp_path / "run", value=0, one=0)
    assert torch.equal(found["value"], torch.ones(3, 2))
    assert torch.equal(found["one"], one)


def test_others_can_tell_who_is_lost_while_it_saves_or_loads(tmp_path, monkeypatch):
    """What a rank does is noted before it touches the disk, which may be what holds it up."""
    noted: list[str] = []
    monkeypatch.setattr(Liveness, "note", lambda self, phase, step=None: noted.append(phase))
    dt.save(tmp_path, step=1)
    assert dt.has_checkpoint(tmp_path)
    dt.load(tmp_path, step=0)
    doing = ["saving a checkpoint", "looking for checkpoints", "loading a checkpoint"]
    assert noted[::2] == doing
    assert noted[1::2] == ["computing"] * 3


def test_views_with_a_pending_sign_keep_their_values(tmp_path):
    """Conjugates and negations of torch are views with a bit; a checkpoint holds their values."""
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    dt.save(tmp_path, conjugate=numbers.conj(), imaginary=numbers.conj().imag)
    found = dt.load(tmp_path, conjugate=0, imaginary=0)
    assert found["conjugate"].tolist() == [1 - 2j, 3 + 4j]
    assert found["imaginary"].tolist() == [-2.0, 4.0]


def test_two_runs_that_save_in_one_folder_are_told_apart(tmp_path):
    """The second one has the newest checkpoint then: the first one must not go on over it."""
    other = "import dgc_topo as dt, sys; dt.save(sys.argv[1], step=100)"
    for step in (1, 2):
        dt.save(tmp_path, step=step)
    subprocess.run([sys.executable, "-c", other, str(tmp_path)], check=True)
    with pytest.raises(OSError, match="set-000003: another run has saved this since set 2 of"):
        dt.save(tmp_path, step=3)
    assert dt.load(tmp_path, step=0) == {"step": 100}
    dt.save(tmp_path, step=101)  # goes on from the other one's, which has ended
    shutil.rmtree(tmp_path)  # the user begins anew
    dt.save(tmp_path, step=1)
    dt.save(tmp_path, step=2)
    assert dt.load(tmp_path, step=0) == {"step": 2}
