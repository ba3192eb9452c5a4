"""The benchmark beside MPI, without MPI: what its ranks answer, and what its table says."""

import json
import socket
import threading

import numpy as np
import pytest

from benchmarks.mpi.__main__ import Row, table
from benchmarks.mpi.orders import given, serve
from benchmarks.mpi.start import missing


class Alone:
    """A library with one rank, which adds *fault* to a sum that is there already."""

    rank, world_size = 0, 1

    def __init__(self, fault):
        self.fault, self.buffer = fault, np.zeros(0, np.float32)

    def resize(self, length):
        self.buffer = np.zeros(length, np.float32)

    def way(self, _):
        return lambda: np.add(self.buffer, self.fault, out=self.buffer)

    def barrier(self):
        pass


@pytest.mark.parametrize(("fault", "right"), [(0.0, True), (1.0, False)])
def test_a_rank_says_when_a_sum_is_wrong(tmp_path, fault, right):
    path = str(tmp_path / "orders")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        rank = threading.Thread(target=serve, args=(Alone(fault), "alone", path))
        rank.start()
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            assert json.loads(stream.readline()) == {"library": "alone", "rank": 0}
            stream.write(json.dumps({"way": "", "length": 300, "count": 0}) + "\n")
            stream.flush()
            assert json.loads(stream.readline())["right"] is right
            connection.shutdown(socket.SHUT_WR)
        rank.join()


def test_sums_of_given_values_are_whole_and_exact_in_any_order():
    values = [given(1000, rank) for rank in range(64)]
    assert np.array_equal(sum(values), sum(reversed(values)))


def test_the_ratio_is_to_the_best_of_the_others():
    times = {"openmpi": 2.0, "mpich": 4.0, "gloo": 3.0, "ring": 1.0, "tree": 5.0}
    rows = [Row("100 Mbit/s", 4, 1000, way, 5, time_s, 0, 0, 0) for way, time_s in times.items()]
    (line,) = table(rows).splitlines()[2:]
    assert line.split(" | ")[-3:] == ["1000.00", "ring", "0.50 |"]


def test_a_machine_without_mpi_is_told_what_it_lacks(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "mpirun.openmpi" in (missing() or "")
