"""What users hand over: gradients missing or sparse, tied weights, other kinds of tensors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

from dgc_topo.compression.after_sum import SGDSettings
from dgc_topo.compression.compressor import Compressor
from dgc_topo.compression.dense import Dense
from dgc_topo.compression.dgc import DGC
from dgc_topo.compression.random_k import RandomK
from dgc_topo.compression.terngrad import TernGrad
from dgc_topo.compression.updates import UpdateCompressor
from dgc_topo.runtime import run_in_process
from dgc_topo.topology import load_topology
from tests.compression.workers import add_up, constant, model, random_like

MAKERS: dict[str, Callable[[Any], Any]] = {
    "dgc-exact": lambda p: DGC(p, num_workers=2, config=constant(density=0.1, selection="exact")),
    "dgc-sampled": lambda p: DGC(
        p, num_workers=2, config=constant(density=0.1, selection="sampled")
    ),
    "dgc-reused": lambda p: DGC(p, num_workers=2, config=constant(density=0.1)),
    "dgc-all": lambda p: DGC(p, num_workers=2, config=constant(density=1.0)),
    "dense": Dense,
    "terngrad": lambda p: TernGrad(p, rank=0),
    "random-k": lambda p: RandomK(p, density=0.1),
    "updates": lambda p: UpdateCompressor(p, num_workers=2, density=0.1),
}
every_maker = pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 6, sparse=True)
        self.unused, self.frozen = nn.Linear(6, 4), nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(6, 2)

    def forward(self, words: Tensor) -> Any:
        return self.head(self.frozen(self.words(words)))


def updates_of(rank: Compressor, *steps: Any) -> list[dict[str, Tensor]]:
    """Return each step's updates, in memory of their own."""
    found = []
    for gradients in steps:
        updates = rank.finish(add_up([rank.compress(gradients)]))
        found.append({name: update.clone() for name, update in updates.items()})
    return found


def same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a.keys() == b.keys() and all(a[n].equal(b[n]) for n in a) for a, b in pairs)


@every_maker
def test_unused_and_frozen_layers_count_as_zeros_and_sparse_gradients_as_dense(maker):
    """A loop that hands over every `p.grad` as it is needs no care."""
    torch.manual_seed(0)
    net = Net()
    parameters = dict(net.named_parameters())
    given: list[Any] = []
    for _ in range(3):
        net.zero_grad()
        net(torch.randint(30, (8,))).square().sum().backward()
        given.append({name: p.grad for name, p in parameters.items()})
    assert {name for name, g in given[0].items() if g is None} == {
        *("unused.weight", "unused.bias", "frozen.weight", "frozen.bias")
    }
    assert given[0]["words.weight"].layout == torch.sparse_coo
    dense = [
        {n: torch.zeros_like(parameters[n]) if g is None else g.to_dense() for n, g in one.items()}
        for one in given
    ]
    assert same(updates_of(maker(parameters), *given), updates_of(maker(parameters), *dense))


@every_maker
def test_a_step_without_any_gradient_is_a_step_of_zeros(maker):
    parameters = model()
    zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
    nothing = dict.fromkeys(parameters)
    first = random_like(parameters, torch.Generator().manual_seed(0))
    assert same(
        updates_of(maker(parameters), first, nothing), updates_of(maker(parameters), first, zeros)
    )


DECAYING: list[Callable[[Any], Compressor]] = [
    *(
        lambda p, mode=mode, density=density: DGC(
            p,
            num_workers=2,
            config=constant(density=density, weight_decay=0.1, weight_decay_mode=mode),
        )
        for mode in ("local", "separate", "decoupled")
        for density in (0.5, 1.0)
    ),
    lambda p: Dense(p, weight_decay=0.1, momentum=0.9),
    lambda p: Dense(p, weight_decay=0.1, decoupled_weight_decay=True),
    lambda p: TernGrad(p, rank=0, sgd=SGDSettings(weight_decay=0.1)),
    lambda p: RandomK(p, density=0.5, sgd=SGDSettings(weight_decay=0.1)),
]


@pytest.mark.parametrize("maker", DECAYING, ids=range(len(DECAYING)))
def test_what_is_frozen_does_not_decay(maker):
    """As with torch's optimizers; what is not frozen decays though nothing came of it."""
    net = Net()
    steps = [dict.fromkeys(dict(net.named_parameters()))] * 3
    last = updates_of(maker(dict(net.named_parameters())), *steps)[-1]
    assert not any(last[name].any() for name in ("frozen.weight", "frozen.bias"))
    assert last["head.weight"].any()
    assert last["head.bias"].any()


@pytest.mark.parametrize(
    "to_sparse",
    [
        Tensor.to_sparse,
        Tensor.to_sparse_csr,
        Tensor.to_sparse_csc,
        lambda t: t.to_sparse_bsr((2, 3)),
        lambda t: t.to_sparse_bsc((2, 3)),
        lambda t: t.to_sparse(1),  # rows
    ],
    ids=["coo", "csr", "csc", "bsr", "bsc", "rows"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.filterwarnings("ignore:Sparse")
def test_every_sparse_layout_is_the_dense_gradient(to_sparse, dtype):
    parameters = {"w": torch.zeros(4, 6, dtype=dtype)}
    dense = torch.tensor([[0, 1, 0], [2, 0, 0]], dtype=dtype).repeat(2, 2)
    for make in MAKERS.values():
        pair = [updates_of(make(parameters), {"w": g}) for g in (to_sparse(dense), dense)]
        assert same(*pair)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_entries_that_a_sparse_gradient_lists_twice_are_added_without_rounding():
    """A word that occurs 1000 times would lose its last 744 occurrences in bfloat16."""
    places = torch.zeros(2, 1000, dtype=torch.int64)
    gradient = torch.sparse_coo_tensor(places, torch.ones(1000, dtype=torch.bfloat16), (3, 3))
    rank = Dense({"w": torch.zeros(3, 3, dtype=torch.bfloat16)})
    assert updates_of(rank, {"w": gradient})[0]["w"][0, 0] == 1000


def test_gradients_may_share_memory_and_be_of_any_strides():
    """They are only read: `autograd.grad` gives one tensor for two terms of a sum."""
    parameters = {"a": torch.zeros(4, 6), "b": torch.zeros(4, 6), "c": torch.zeros(6, 4)}
    shared = torch.arange(24.0).view(4, 6)
    gradients = {"a": shared, "b": torch.tensor(2.0).expand(4, 6), "c": shared.t()}
    copies = {name: gradient.clone() for name, gradient in gradients.items()}
    for make in MAKERS.values():
        found = updates_of(make(parameters), gradients, gradients)
        assert same(found, updates_of(make(parameters), copies, copies))
    assert shared.equal(copies["a"])


def _dtensor(tensor: Tensor) -> Any:
    return distribute_tensor(tensor, init_device_mesh("cpu", (1,)))


@pytest.fixture(scope="module")
def lonely_group():
    """A process group of this process alone."""
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("lonely_group")
@pytest.mark.filterwarnings("ignore")  # what torch says of itself
def test_a_dtensor_is_refused_by_name_and_its_own_part_works_instead():
    whole = torch.arange(6.0).view(2, 3)
    shared: Any = nn.Parameter(_dtensor(whole))
    says = "'w' is a DTensor .FSDP2, tensor parallel., expected a plain tensor: .* .to_local()"
    for make in MAKERS.values():
        with pytest.raises(ValueError, match=f"parameter {says}"):
            make({"w": shared})
        own = {"w": shared.to_local().detach()}
        with pytest.raises(ValueError, match=f"gradient of {says}"):
            make(own).compress({"w": _dtensor(whole)})
        make(own).compress({"w": _dtensor(whole).to_local()})


class Plain(Tensor):
    """A subclass that keeps its numbers as every tensor does."""


def _fake() -> Tensor:
    with FakeTensorMode():
        return torch.zeros(2, 2)


KINDS: dict[str, tuple[Callable[[], Any], str]] = {
    "fake": (_fake, "is a FakeTensor, expected a plain tensor with numbers in memory"),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        "is a nested tensor, expected a plain tensor",
    ),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged),
        "is a nested tensor, expected a plain tensor",
    ),
    "lazy": (lambda: nn.LazyLinear(2).weight, "has no shape yet, expected one: run the model"),
    "array": (lambda: np.zeros((2, 2)), "is ndarray, expected a tensor"),
    "number": (lambda: 1.0, "is float, expected a tensor"),
    "complex": (lambda: torch.zeros(2, 2, dtype=torch.complex64), "is torch.complex64"),
    "integers": (lambda: torch.zeros(2, 2, dtype=torch.int64), "is torch.int64"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.zeros(2, 2), 1.0, 0, torch.qint8),
        "is torch.qint8",
    ),
    "meta": (lambda: torch.zeros(2, 2, device="meta"), "is on meta"),
}


@pytest.mark.parametrize(("make", "says"), KINDS.values(), ids=KINDS.keys())
@pytest.mark.filterwarnings("ignore")  # what torch says of its own features
def test_what_only_looks_like_a_tensor_of_numbers_is_refused_by_name(make, says):
    for maker in MAKERS.values():
        with pytest.raises(ValueError, match=f"parameter 'w' {says}"):
            maker({"w": make()})
        rank = maker({"w": torch.zeros(2, 2)})
        with pytest.raises(ValueError, match=f"gradient of 'w' {says}"):
            rank.compress({"w": make()})


@pytest.mark.parametrize(
    "given",
    [nn.Linear(2, 2), nn.Linear(2, 2).named_parameters(), [torch.zeros(2)], None],
    ids=["module", "iterator", "list", "nothing"],
)
def test_gradients_that_come_without_names_are_refused(given):
    for maker in MAKERS.values():
        with pytest.raises(ValueError, match="expected one for each parameter, by name"):
            maker(model()).compress(given)


def test_names_are_text():
    for maker in MAKERS.values():
        with pytest.raises(ValueError, match="parameter 0, expected a name that is text"):
            maker({0: torch.zeros(2, 2)})


def test_a_subclass_that_keeps_numbers_as_tensors_do_is_fine():
    parameters = {"w": torch.zeros(3, 2).as_subclass(Plain)}
    gradient = torch.arange(6.0).view(3, 2)
    for make in MAKERS.values():
        (found,), (expected,) = (
            updates_of(make(parameters), {"w": g}) for g in (gradient.as_subclass(Plain), gradient)
        )
        assert type(found["w"]) is Tensor
        assert found["w"].equal(expected["w"])


BASE = torch.zeros(60)
ALIASES: dict[str, tuple[Tensor, Tensor]] = {
    "the same": (BASE, BASE),
    "transposed": (BASE.view(6, 10), BASE.view(6, 10).t()),
    "detached": (BASE, BASE.detach()),
    "overlapping": (BASE[:31], BASE[30:]),
    "inside": (BASE, BASE[10:12]),
    "of another type": (BASE[:6], BASE.view(torch.float16)[10:14]),
    "columns": (BASE.view(6, 10)[:, :6], BASE.view(6, 10)[:, 5:]),
    "strided": (BASE[::3], BASE[::2]),
    "of an array": (torch.from_numpy(BASE.numpy()[:40]), torch.from_numpy(BASE.numpy()[39:])),
}
APART: dict[str, tuple[Tensor, Tensor]] = {
    "neighbours": (BASE[:30], BASE[30:]),
    "columns": (BASE.view(6, 10)[:, :5], BASE.view(6, 10)[:, 5:]),
    "even and odd": (BASE[::2], BASE[1::2]),
    "empty": (BASE, BASE[5:5]),
    "equal": (BASE, BASE.clone()),
}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("pair", ALIASES.values(), ids=ALIASES.keys())
def test_parameters_that_share_memory_are_refused_naming_both(pair, order):
    first, second = pair[::order]
    parameters = {"a": torch.zeros(4), "first": first, "b": torch.zeros(2, 2), "second": second}
    for make in MAKERS.values():
        with pytest.raises(ValueError, match="'first' and 'second' share memory"):
            make(parameters)


@pytest.mark.filterwarnings("ignore:dgc compresses nothing")
@pytest.mark.parametrize("pair", APART.values(), ids=APART.keys())
def test_views_of_one_memory_that_do_not_overlap_are_fine(pair):
    for make in MAKERS.values():
        make({"first": pair[0], "second": pair[1]})


@pytest.mark.parametrize(
    "view",
    [torch.zeros(1).expand(4, 3), torch.arange(6.0).unfold(0, 3, 1)],
    ids=["expanded", "windows"],
)
def test_a_parameter_whose_own_elements_share_memory_is_refused(view):
    for make in MAKERS.values():
        with pytest.raises(ValueError, match="elements of parameter 'w' share memory"):
            make({"w": view})


def test_tied_weights_as_a_module_names_them_count_once():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.words.weight

    MAKERS["dgc-reused"](dict(Tied().named_parameters()))
    with pytest.raises(ValueError, match=r"'words\.weight' and 'head\.weight' share memory"):
        MAKERS["dgc-reused"](dict(Tied().named_parameters(remove_duplicate=False)))


#: Too little to compress, or to cut into chunks.
LITTLE: dict[str, dict[str, tuple[int, ...]]] = {
    "biases": {"bias": (7,), "norm": (5,)},
    "one bias": {"bias": (1,)},
    "a scalar": {"scale": ()},
    "empty": {"w": (0, 3)},
    "empty bias": {"bias": (0,)},
    "some empty": {"w": (0, 3), "v": (2, 2), "bias": (0,), "u": (3, 0)},
    "one element": {"w": (1, 1)},
    "one of each": {"w": (1, 1), "bias": (1,)},
}


@pytest.mark.filterwarnings("ignore:dgc compresses nothing")
@pytest.mark.parametrize("shapes", LITTLE.values(), ids=LITTLE.keys())
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_models_with_little_to_compress_train(shapes, num_ranks):
    """Everything is sent in every step, so the first update is the sum, or the mean of updates."""
    parameters = {name: torch.ones(shape) for name, shape in shapes.items()}
    gradients = random_like(parameters, torch.Generator().manual_seed(0))
    zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
    schedule = load_topology("ring").schedule(num_ranks)
    more = {
        f"dgc-{scope}-{merge}-{density}": lambda p, s=scope, m=merge, d=density: DGC(
            p, num_workers=num_ranks, config=constant(density=d, scope=s, merge=m, track_ages=True)
        )
        for scope in ("layer", "model")
        for merge in ("union", "reselect")
        for density in (1e-9, 0.999)
    }
    mean = {"updates": lambda p: UpdateCompressor(p, num_workers=num_ranks, density=0.1)}
    for name, make in {**MAKERS, **more, **mean}.items():
        weight = 1 if name == "updates" else num_ranks
        ranks = [make(parameters) for _ in range(num_ranks)]
        if name == "terngrad":
            ranks = [TernGrad(parameters, rank=rank) for rank in range(num_ranks)]
        for number, given in enumerate((gradients, zeros, gradients)):
            payloads = [rank.compress(given) for rank in ranks]
            run_in_process(schedule, payloads)
            updates = [rank.finish(p) for rank, p in zip(ranks, payloads, strict=True)]
            assert all(same([updates[0]], [each]) for each in updates)
            assert all(updates[0][n].shape == p.shape for n, p in parameters.items())
            dense = {n: u for n, u in updates[0].items() if u.dim() < 2}
            for n, update in dense.items() if number == 0 else ():
                torch.testing.assert_close(update, weight * gradients[n])
        assert ranks[0].neutral().device == parameters[next(iter(parameters))].device
        assert ranks[0].describe()
