"""Calibrate a cluster of your own: ``torchrun ... -m dgc_topo.calibration FILE [RATE]``.

Every rank runs this.  RATE is the nominal one of the links, such as 1Gbit/s, if it is to be told
from what they carry; each host should run one rank.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

from dgc_topo.calibration.calibrate import ROUNDS, fit_network
from dgc_topo.calibration.measure import measured, request, rounds_of
from dgc_topo.calibration.model import Parameters
from dgc_topo.calibration.probes import probes
from dgc_topo.calibration.runs import time_cases
from dgc_topo.lab.spec import link_rate_from
from dgc_topo.launch.group import join_workers

_LONGEST = timedelta(seconds=120)


def main(arguments: list[str]) -> None:
    """Run the probes on all ranks; rank 0 writes the network file.

    Raises:
        ValueError: if the arguments are wrong, or no launcher has set the environment.
    """
    if len(arguments) not in {1, 2}:
        raise ValueError(
            f"calibration: {len(arguments)} arguments, expected a file to write and at most a rate"
        )
    path, *given = arguments
    rate = link_rate_from(given[0], "rate") if given else None
    with join_workers("cpu", "gloo", _LONGEST) as worker:
        cases = probes(worker.world_size, rate)
        timed = time_cases(worker, request(cases, ROUNDS))
        per_rank = worker.gather(timed, "collecting the probes")
    if worker.rank == 0:
        rows = [
            measured(case, rounds, 1)
            for case, rounds in zip(
                cases, rounds_of(cases, [answer["timed"] for answer in per_rank]), strict=True
            )
        ]
        network = fit_network(Path(path).stem, [(rate, rows)], Parameters(), rate)
        network.save(Path(path))


if __name__ == "__main__":
    main(sys.argv[1:])
