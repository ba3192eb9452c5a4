"""Between ranks only tensors and JSON travel, and what a peer says of sizes is not believed."""

import ast
import resource
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch

import dgc_topo
from dgc_topo.workers.group import GroupPeerError, Worker

PACKAGE = Path(dgc_topo.__file__).parent
#: Torch's calls that pickle what they send, and the modules that do.
PICKLING_CALLS = {
    "all_gather_object",
    "gather_object",
    "broadcast_object_list",
    "scatter_object_list",
    "send_object_list",
    "recv_object_list",
}
PICKLING_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
#: A data set's published files, read by an unpickler that knows arrays only; and this program's
#: own children, which get a sweep's grid, or a function of one's own, from their parent.
NOT_BETWEEN_RANKS = {
    "training/data/cifar.py": {"pickle"},
    "experiments/sweep/serving.py": {"pickle"},
    "workers/launching.py": {"cloudpickle"},
}


def names_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (each.name.partition(".")[0] for each in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module.partition(".")[0]
                yield from (each.name for each in names)
            case ast.Attribute(attr=name) | ast.Name(id=name):
                yield name


def test_nothing_in_the_package_pickles_for_a_peer():
    banned = PICKLING_CALLS | PICKLING_MODULES
    found = {
        path.relative_to(PACKAGE).as_posix(): names
        for path in PACKAGE.rglob("*.py")
        if (names := banned.intersection(names_in(ast.parse(path.read_text()))))
    }
    assert found == NOT_BETWEEN_RANKS


def liar(announced: int) -> Worker:
    """Return a worker whose peer announces so many bytes, and then sends a text of its own."""

    class Liar(Worker):
        def gather_tensors(self, values: torch.Tensor, what: str) -> list[torch.Tensor]:
            if values.dtype == torch.int64:
                return [values, torch.tensor([announced])]
            other = torch.frombuffer(bytearray(b'{"not": "a number"}'), dtype=torch.uint8)
            return [values, torch.cat([other, values.new_zeros(len(values) - len(other))])]

    device = torch.device("cpu")
    return Liar(0, 2, device, timedelta(1), lambda _: None, "loopback", None, 1.0)


@pytest.mark.parametrize("announced", [1 << 62, 1 << 32, (16 << 20) + 1, 0, -5])
def test_an_impossible_size_of_a_text_takes_no_memory(announced: int):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(GroupPeerError, match=rf"texts of \[1, {announced}\] bytes, expected 1 to"):
        liar(announced).gather(int, 7, "asking")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10  # KiB


def test_a_text_that_is_not_of_the_asked_kind_is_refused():
    with pytest.raises(ValueError, match="valid integer"):
        liar(19).gather(int, 7, "asking")
