"""Ranks that a launcher started are compared, and found, before they go on."""

import json
import os
import socket
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._C._distributed_c10d import HashStore

from dgc_topo.runtime import RanksDifferError
from dgc_topo.workers import meeting
from dgc_topo.workers.children import python_command
from dgc_topo.workers.joining import seats_of
from dgc_topo.workers.machine import choose_backend
from dgc_topo.workers.meeting import MeetingError, meet
from dgc_topo.workers.seat import Seat
from dgc_topo.workers.statement import Statement, statement_of
from tests.forked import forked


def said_by(statements: Sequence[Statement], patience_s: float = 20.0) -> list[Any]:
    """Let ranks meet, each in a thread; return what each finds, or the error it ends with."""
    store = HashStore()

    def join(own: Statement) -> Any:
        try:
            return meet(store, own, patience_s)
        except (RanksDifferError, MeetingError) as error:
            return error

    with ThreadPoolExecutor(len(statements)) as pool:
        return list(pool.map(join, statements))


def rank(number: int, world_size: int, **settings: Any) -> Statement:
    return statement_of(Seat(number, world_size), [], settings)


def test_ranks_that_agree_all_find_the_same_ranks():
    statements = [rank(number, 5, seed=1, densities=[0.1]) for number in range(5)]
    assert said_by(list(reversed(statements))) == [statements] * 5


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (rank(2, 3, seed=2), "seed is 2 on rank 2, 1 on rank 0"),
        (rank(2, 3, seed=1, more=[0.5]), r"more is \[0.5\] on rank 2, not set on rank 0"),
        (rank(2, 3), "seed is not set on rank 2, 1 on rank 0"),
        (rank(2, 4, seed=1), "WORLD_SIZE is 4 on rank 2, 3 on rank 0"),
        (
            Statement(
                Seat(2, 3), "here", (), {**rank(2, 3, seed=1).settings, "version of torch": "1"}
            ),
            'version of torch is "1" on rank 2',
        ),
        (rank(1, 3, seed=1), "RANK is 1 in two processes"),
        (Statement(Seat(2, 9), "here", fault="no scenario"), "rank 2 does not join: no scenario"),
    ],
)
def test_the_rank_and_the_key_that_differ_are_named_on_every_rank(odd: Statement, says: str):
    found = said_by([rank(0, 3, seed=1), rank(1, 3, seed=1), odd])
    for error in found:
        assert isinstance(error, RanksDifferError)
        assert error.args == found[0].args
        with pytest.raises(RanksDifferError, match=says):
            raise error


def test_a_rank_too_many_is_refused_by_name_even_if_it_comes_late():
    store = HashStore()
    meet(store, alone := rank(0, 1, seed=1), 5)
    for late, says in (
        (rank(1, 2, seed=1), "WORLD_SIZE is 2 on rank 1, 1 on rank 0"),
        (Statement(Seat(0, 1), "there", (), alone.settings), "RANK is 0 in two processes"),
    ):
        with pytest.raises(RanksDifferError, match=says):
            meet_late(store, late)


def meet_late(store: Any, late: Statement) -> None:
    """As `meet`, for what is not to preside a second time."""
    verdict = json.loads(store.get("verdict"))
    ranks = [Statement.from_json(text.encode()) for text in verdict["ranks"]]
    meeting._check_among(late, ranks)


def test_ranks_that_do_not_come_are_named():
    found = said_by([rank(0, 4), rank(2, 4)], patience_s=0.2)
    assert [str(error) for error in found] == [
        "nothing from ranks 1, 3 of 4 within 0.2 s, expected every rank to come"
    ] * 2


def test_what_the_launcher_leaves_open_is_found_from_the_machines():
    machines = ["a", "b", "a", "b", "c"]
    told = [Statement(Seat(n, 5), machine) for n, machine in enumerate(machines)]
    assert seats_of(told) == [
        Seat(0, 5, 0, 2),
        Seat(1, 5, 0, 2),
        Seat(2, 5, 1, 2),
        Seat(3, 5, 1, 2),
        Seat(4, 5, 0, 1),
    ]


@pytest.mark.parametrize(
    ("gpus", "auto", "refusal"),
    [
        (["A", "B"], "nccl", None),
        (["A", "A"], "gloo", "ranks 0 and 1 share one"),
        (["A", None], "gloo", "rank 1 has none"),
    ],
)
def test_nccl_is_refused_only_where_it_is_known_not_to_work(gpus, auto, refusal):
    assert choose_backend("auto", gpus) == auto
    assert choose_backend("gloo", gpus) == "gloo"
    if refusal is None:
        assert choose_backend("nccl", gpus) == "nccl"
    else:
        with pytest.raises(ValueError, match=refusal):
            choose_backend("nccl", gpus)


RANK = """
import sys
from datetime import timedelta
from dgc_topo.workers.joining import join_workers
with join_workers("cpu", "auto", timedelta(seconds=30), {"seed": int(sys.argv[1])}) as worker:
    print(worker.network, worker.gather(int, worker.rank, "asking"))
"""


@pytest.fixture
def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


CANNOT = """
import sys
from datetime import timedelta
from dgc_topo.workers.joining import join_workers
device = "cuda" if sys.argv[1] == "2" else "cpu"
with join_workers(device, "auto", timedelta(seconds=30)):
    print("joined")
"""


def run(code: str, seeds: Sequence[int], port: int, folder: Path) -> list[tuple[int, str]]:
    """Run a script as two ranks of a launcher; return the status and the text of each."""
    script = folder / "rank.py"
    script.write_text(code)
    others = {name: text for name, text in os.environ.items() if not name.startswith("LOCAL_")}
    seat = {"WORLD_SIZE": "2", "MASTER_PORT": str(port), "MASTER_ADDR": "127.0.0.1"}
    with ExitStack() as stack:
        nothing = stack.enter_context(Path(os.devnull).open("rb"))
        texts = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in seeds]
        ranks = [
            forked().start(
                number,
                python_command("tests.examples.script", str(script), str(seed)),
                {**others, **seat, "RANK": str(number), "GLOO_SOCKET_IFNAME": "lo"},
                nothing.fileno(),
                texts[number].fileno(),
            )
            for number, seed in enumerate(seeds)
        ]
        ends = [rank.wait(60) for rank in ranks]
        for text in texts:
            text.seek(0)
        return [(end, text.read()) for end, text in zip(ends, texts, strict=True)]


needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a missing GPU")
OTHER_HOST = "import socket, sys; socket.gethostname = lambda: f'host{sys.argv[1]}'\n"
OTHER_HOST += RANK.replace('{"seed": int(sys.argv[1])}', "{}")


@pytest.mark.parametrize(
    ("code", "seeds", "status", "says"),
    [
        (RANK, (1, 1), 0, "loopback [0, 1]"),
        (OTHER_HOST, (1, 2), 0, "unknown [0, 1]"),
        (RANK, (1, 2), 1, "ranks differ: seed is 2 on rank 1, 1 on rank 0"),
        pytest.param(CANNOT, (1, 2), 1, "this machine has no usable CUDA", marks=needs_no_gpu),
    ],
)
def test_processes_of_any_launcher_join_or_say_why_not(
    code, seeds, status, says, free_port, tmp_path
):
    for end, printed in run(code, seeds, free_port, tmp_path):
        assert end == status, printed
        assert says in printed


ALONE = """
from datetime import timedelta
from dgc_topo.workers import joining
joining.LEAST_WAIT = timedelta(seconds=2)
with joining.join_workers("cpu", "gloo", timedelta(seconds=1)):
    print("joined")
"""


def test_a_rank_that_never_comes_is_named_after_about_the_timeout(free_port, tmp_path):
    """Not after as long as an evaluation may take, ten times that."""
    ((status, printed),) = run(ALONE, (0,), free_port, tmp_path)
    assert status == 1
    assert "nothing from rank 1 of 2 within 2 s, expected every rank to come" in printed
