"""Who is named when waiting fails, whatever mixture of silence and loss there is."""

from datetime import timedelta

import pytest
import torch
from torch import Tensor

from dgc_topo.runtime import PeerError
from dgc_topo.runtime.failure import Posted, Watch
from dgc_topo.runtime.staging import Staging

SILENT = "[/a/b.cc:78] Timed out waiting 20ms for recv operation to complete"
CLOSED = "[/a/pair.cc:553] Connection closed by peer [::1]:80. This is typical. GLHF!"
POISONED = "Application timeout caused pair closure"


class FakeWork:
    """Completes, or fails the way Gloo does."""

    def __init__(self, says: str | None) -> None:
        self._says = says

    def wait(self, timeout: timedelta) -> bool:
        assert timeout >= timedelta(milliseconds=1)
        if self._says is not None:
            raise RuntimeError(self._says)
        return True


def works(*said: tuple[int, str | None, bool]) -> list[Posted]:
    return [Posted(FakeWork(says), peer, is_receive) for peer, says, is_receive in said]  # type: ignore[arg-type]


def error_of(timeout_s: float, pending: list[Posted]) -> PeerError:
    watch = Watch(0, timedelta(seconds=timeout_s))
    watch.begin("ring", 5)
    first = pending[0]
    with pytest.raises(PeerError) as caught:
        watch.wait(first.work, first.peer, pending[1:], is_receive=first.is_receive)
    return caught.value


def test_a_loss_is_told_in_short():
    error = error_of(30, works((3, CLOSED, True), (1, None, True)))
    assert str(error) == (
        "rank 0: topology ring, step 5: lost connection to rank 3: "
        "Connection closed by peer [::1]:80"
    )


def test_silence_names_who_is_silent_and_which_way():
    error = error_of(
        0, works((3, SILENT, True), (1, None, True), (3, POISONED, False), (2, POISONED, False))
    )
    assert error.peers == (2, 3)
    assert error.reason == (
        "nothing from rank 3 and rank 2 took no message within 0 s (frozen or unreachable)"
    )


def test_who_left_during_the_silence_is_named_too():
    error = error_of(0, works((3, SILENT, True), (1, CLOSED, True), (1, CLOSED, False)))
    assert error.peers == (1, 3)
    assert error.reason == (
        "nothing from rank 3 within 0 s (frozen or unreachable); "
        "lost connection to rank 1: Connection closed by peer [::1]:80"
    )


def test_a_joint_work_leaves_every_peer_under_suspicion():
    watch = Watch(0, timedelta(0))
    watch.begin("ring", 5)
    (joint,) = works((0, SILENT, True))
    with pytest.raises(PeerError, match="nothing from ranks 1, 2 within 0 s"):
        watch.wait_batch([joint.work], [2, 1, 1], num_receives=1)
    watch = Watch(0, timedelta(seconds=9))
    watch.begin("ring", 5)
    with pytest.raises(PeerError, match="lost connection to ranks 1, 2: Timed out"):
        watch.wait_batch([joint.work], [2, 1, 1], num_receives=1)


class LostGroup:
    """A process group that knows its connections to be lost."""

    def send(self, tensors: list[Tensor], peer: int, tag: int) -> None:
        raise RuntimeError(CLOSED)

    recv = send


def test_a_connection_lost_before_is_noticed_when_posting():
    watch = Watch(0, timedelta(1))
    watch.begin("ring", 5)
    staging = Staging(LostGroup(), torch.device("cpu"), watch, 16)  # type: ignore[arg-type]
    message = torch.zeros(4, dtype=torch.uint8)
    said = "step 5: lost connection to rank 2: Connection closed by peer"
    with pytest.raises(PeerError, match=said):
        staging.send(message, 2, 0, sized=True)
    with pytest.raises(PeerError, match=said):
        staging.receive(2, 0, 4)
