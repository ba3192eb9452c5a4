import socket

import pytest

from dgc_topo.runtime.connections import SendQueues, connections, delivery, limit_unsent

_NOTSENT_LOWAT = 25


@pytest.fixture
def pair():
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    with near, far:
        yield near, far


def _exchange(pair, num_bytes):
    near, far = pair
    for _ in range(num_bytes // 10_000):
        near.sendall(b"x" * 10_000)
        far.recv(10_000, socket.MSG_WAITALL)


def _fill(near):
    """Return how many bytes the kernel took at once."""
    taken = 0
    try:
        while True:
            taken += near.send(b"x" * 1000)
    except BlockingIOError:
        return taken


def test_a_connection_that_carries_little_is_left_alone(pair):
    before = pair[0].getsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT)
    _exchange(pair, 100_000)
    SendQueues().keep_short()
    assert pair[0].getsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT) == before


def test_what_was_sent_is_counted_by_connection(pair):
    _exchange(pair, 300_000)
    assert delivery(pair[0]).bytes_sent == 300_000
    assert delivery(pair[1]).bytes_sent == 0


def test_a_limit_lets_the_kernel_take_no_more(pair):
    near, _ = pair  # nobody reads at the far end
    near.setblocking(False)
    limit_unsent(near, 10_000)
    _fill(near)
    limit_unsent(near, 1 << 30)
    assert _fill(near) > 10_000


def test_a_broken_connection_is_passed_over(pair):
    near, far = pair
    _exchange(pair, 300_000)
    far.close()
    SendQueues().keep_short()
    assert all(each.fileno() != near.fileno() for each in connections())  # copies, all closed


def test_other_systems_are_left_alone(pair, monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("dgc_topo.runtime.connections.connections", lambda: pytest.fail("looked"))
    SendQueues().keep_short()
