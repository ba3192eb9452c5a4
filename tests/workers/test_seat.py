"""A rank's seat is read from what launchers say; what none says is unknown."""

from typing import Any

import pytest

from dgc_topo.workers.seat import Seat, meeting_point, seat_from

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8"}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4,2(x2)",
}
STEP = {**SLURM, "SLURM_JOB_ID": "123456"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
MPICH = {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
#: Of the processes that srun starts, each of which starts ranks.
AROUND = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (TORCHRUN, Seat(5, 8)),
        ({**TORCHRUN, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, Seat(5, 8, 1, 4)),
        ({**TORCHRUN, "LOCAL_RANK": "1"}, Seat(5, 8, 1, None)),
        ({**TORCHRUN, **SLURM}, Seat(5, 8, 1, 2)),
        ({**TORCHRUN, **OPEN_MPI}, Seat(5, 8, 1, 2)),
        (SLURM, Seat(5, 8, 1, 2)),
        ({**SLURM, "SLURM_NODEID": "0"}, Seat(5, 8, 1, 4)),
        ({**SLURM, "SLURM_NODEID": "3"}, Seat(5, 8, 1, None)),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "nonsense"}, Seat(5, 8, 1, None)),
        ({**SLURM, "SLURM_NODEID": "²"}, Seat(5, 8, 1, None)),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "0(x9)"}, Seat(5, 8, 1, None)),
        ({**TORCHRUN, "SLURM_LOCALID": "0", "SLURM_NTASKS_PER_NODE": "1"}, Seat(5, 8, 0, 1)),
        (OPEN_MPI, Seat(5, 8, 1, 2)),
        (MPICH, Seat(5, 8, 1, 2)),
        ({**OPEN_MPI, **AROUND}, Seat(5, 8, 1, 2)),  # mpirun starts its helpers with srun
        ({**TORCHRUN, **AROUND}, Seat(5, 8)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Seat(0, 1)),
    ],
)
def test_a_place_is_what_the_launcher_says(environment: dict[str, str], expected: Seat):
    assert seat_from(environment) == expected


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
@pytest.mark.parametrize("value", ["", " ", "-1", "1.5", "two", "²", "9" * 5000, "0x1", "1 "])
def test_what_is_no_number_is_named(name: str, value: str):
    environment = {**TORCHRUN, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", name: value}
    with pytest.raises(ValueError, match=f"^environment variable {name} is '.*expected a whole"):
        seat_from(environment)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "variable RANK is ''"),
        ({"RANK": "0"}, "variable WORLD_SIZE is ''"),
        ({"WORLD_SIZE": "2"}, "variable RANK is ''"),
        ({**SLURM, "WORLD_SIZE": "8"}, "variable RANK is ''"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2, expected less than WORLD_SIZE, which is 2"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE is '0', expected a whole number from 1"),
        ({**TORCHRUN, "LOCAL_RANK": "4", "LOCAL_WORLD_SIZE": "4"}, "rank 4 on this machine"),
        ({**TORCHRUN, "LOCAL_RANK": "8"}, "rank 8 on this machine"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "9"}, "9 ranks on this machine of 8 in all"),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "8"}, "OMPI_COMM_WORLD_RANK is 8, expected less"),
    ],
)
def test_what_cannot_be_is_refused(environment: dict[str, str], says: str):
    with pytest.raises(ValueError, match=says):
        seat_from(environment)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"MASTER_ADDR": "node1", "MASTER_PORT": "1234"}, ("node1", 1234)),
        ({"MASTER_ADDR": "node1"}, ("node1", 29500)),
        ({**STEP, "SLURM_STEP_NODELIST": "a[03-05,9]-ib,b"}, ("a03-ib", 23456)),
        ({**SLURM, "SLURM_STEP_NODELIST": "gpu7", "MASTER_PORT": "99"}, ("gpu7", 99)),
        ({**SLURM, "SLURM_JOB_NODELIST": "n[1,2]"}, ("n1", 29500)),
        ({**SLURM, "SLURM_LAUNCH_NODE_IPADDR": "::1"}, ("::1", 29500)),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, ("127.0.0.1", 29500)),
    ],
)
def test_ranks_meet_where_rank_0_is(environment: dict[str, str], expected: Any):
    assert meeting_point(environment) == expected


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({**TORCHRUN, "MASTER_ADDR": ""}, "MASTER_ADDR is '', expected the address"),
        (TORCHRUN, "MASTER_ADDR is ''"),
        (OPEN_MPI, "MASTER_ADDR is ''"),  # on several machines
        ({"MASTER_ADDR": "a", "MASTER_PORT": ""}, "MASTER_PORT is '', expected a whole number"),
        ({"MASTER_ADDR": "a", "MASTER_PORT": "65536"}, "from 1 to 65535"),
    ],
)
def test_no_place_to_meet_is_named(environment: dict[str, str], says: str):
    with pytest.raises(ValueError, match=says):
        meeting_point(environment)
