"""A lost or frozen peer ends in an error that says where, within the time-out."""

import pickle
import re
import signal
from collections.abc import Iterator

import pytest

from dgc_topo.runtime import PeerError, StepPlace
from dgc_topo.topology import load_topology
from tests.runtime.cluster import Cluster, Lost
from tests.runtime.jobs import Failure, mismatched_sizes, run_into_trap

WORLD_SIZE = 4
TIMEOUT_S = 1.5
LONG_S = 6.0  #: for what has to be seen long before, on busy cores, too
MARGIN_S = 20.0  #: for processes that share busy cores; less than the group's own time-out


@pytest.fixture
def broken() -> Iterator[Cluster]:
    """Workers of its own for a test that breaks them; none is left when it ends."""
    cluster = Cluster(WORLD_SIZE, [WORLD_SIZE])
    yield cluster
    cluster.close()


def run_with(
    cluster: Cluster,
    topology: str,
    trap: signal.Signals,
    nth: int,
    victims: tuple[int, ...] = (3,),
    timeout_s: float = TIMEOUT_S,
) -> list[Failure]:
    """Return how the survivors fail when *victims*, the last ranks, stop before message *nth*."""
    arguments = (load_topology(topology), victims, trap, nth, timeout_s)
    survivors = WORLD_SIZE - len(victims)
    failures = cluster.run(WORLD_SIZE, run_into_trap, *arguments, answers=survivors)
    for victim in failures[victims[0] :]:
        assert victim is None or isinstance(victim, Lost)
    del failures[victims[0] :]
    for rank, failure in enumerate(failures):
        assert isinstance(failure, Failure), f"rank {rank} never failed"
        assert failure.error.rank == rank
        assert failure.error.place.topology == topology
        assert failure.after_s < timeout_s + MARGIN_S
        assert f"rank {rank}: topology {topology}, step " in str(failure.error)
        assert f"unusable after an earlier error: {failure.error}" in str(failure.again)
    return failures


def test_a_frozen_peer_in_a_ring(broken: Cluster):
    before, middle, after = run_with(broken, "ring", signal.SIGSTOP, 2)
    frozen = f"within {TIMEOUT_S:g} s (frozen or unreachable)"
    assert str(before.error) == f"rank 0: topology ring, step 2: nothing from rank 3 {frozen}"
    assert before.after_s >= TIMEOUT_S
    # Who waits for a waiting rank either loses patience too, or sees it give up first.
    assert middle.error.peers == (0,)
    assert middle.error.place.step == 3
    # The frozen rank had posted its receive for step 2, so the system took that message for it.
    assert str(after.error) == f"rank 2: topology ring, step 3: rank 3 took no message {frozen}"


def test_a_lost_peer_in_a_ring(broken: Cluster):
    before, middle, after = run_with(broken, "ring", signal.SIGKILL, 2, timeout_s=LONG_S)
    lost = "lost connection to rank 3: .*Connection (closed|reset) by peer.*"
    assert re.fullmatch(f"rank 0: topology ring, step 2: {lost}", str(before.error))
    assert re.fullmatch(f"rank 2: topology ring, step [23]: {lost}", str(after.error))
    assert max(before.after_s, after.after_s) < LONG_S  # seen, not waited for
    assert middle.error.place.step in (3, 4)


@pytest.mark.parametrize("trap", [signal.SIGSTOP, signal.SIGKILL])
def test_everyone_names_the_culprit_in_a_mesh(broken: Cluster, trap: signal.Signals):
    for failure in run_with(broken, "mesh", trap, 0):
        # Ranks that notice at the same time also see each other leave.
        assert 3 in failure.error.peers or "lost connection" in failure.error.reason


def test_a_server_names_every_silent_client(broken: Cluster):
    server, _ = run_with(broken, "parameter-server", signal.SIGSTOP, 0, victims=(2, 3))
    assert server.error.peers == (2, 3)
    assert ", step 0: nothing from ranks 2, 3 within" in str(server.error)


def test_the_error_survives_pickling():
    error = PeerError(0, StepPlace("ring", 5), (3, 1), "nothing from ranks 1, 3 within 30 s")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.rank, copy.place, copy.peers) == (0, ("ring", 5), (1, 3))


def test_buffers_of_different_lengths_are_refused(broken: Cluster):
    said = broken.run(WORLD_SIZE, mismatched_sizes, load_topology("mesh"))
    assert all("rank 0 announces" in text for text in said[1:])
