"""Speed of the simulator: messages per second and peak memory, and how both grow with ranks.

Run ``python -m benchmarks.simulate_speed`` (about ten minutes); ``--only named`` runs one table,
and ``--quick`` leaves out what takes minutes.  ``--against FOLDER`` runs every case alternately
with the package in another checkout, and prints how many times as fast this one is.

Every case runs in a process of its own, so that its peak memory is its own.  Wall time includes
building the schedule's steps, which are yielded while simulating.  This machine's speed varies: the
column "machine" is the speed of a fixed loop of array operations just before the case.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.simulate_case import NUM_BYTES, machine_speed

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One simulation and what it may take: the project's own targets on a quiet machine.

    Attributes:
        topology: Topology; ``mix`` for many training steps.
        world_size: Number of ranks.
        network: Name of the network, see `simulate_case`.
        limit_s: Most seconds.
        least_per_s: Least messages (or predictions) per second.
        limit_bytes: Most memory of the process.
        is_long: True if it takes minutes; an older version is not asked then.
    """

    topology: str
    world_size: int
    network: str = "equal"
    limit_s: float = float("inf")
    least_per_s: float = 0.0
    limit_bytes: float = float("inf")
    is_long: bool = False


TABLES = {
    "named": (
        Case("ring", 1024, least_per_s=8e6),
        Case("ring", 1024, "unequal", least_per_s=5e6),
        Case("ring", 1024, "slow-host", least_per_s=5e6),
        Case("butterfly", 65_536, limit_s=0.3),
        Case("butterfly", 1 << 20, limit_s=5.0, limit_bytes=1e9),
        Case("ring", 16_384, limit_s=120.0, is_long=True),
        Case("ring", 16_384, "unequal", limit_s=120.0, is_long=True),
    ),
    "shared": (
        Case("ring", 256, "racks"),
        Case("ring", 256, "racks-in-turn"),
        Case("parameter-server", 256, "unequal"),
        Case("parameter-server", 256, "racks"),
        Case("sharded-parameter-server", 64, "unequal"),
        Case("sharded-parameter-server", 64, "racks"),
        Case("butterfly", 256, "racks-in-turn"),
    ),
    "steps": (Case("mix", 256, "stars", least_per_s=10_000 / 60 / 2),),
    "growth": (
        *(Case("ring", 1 << level) for level in range(6, 13)),
        *(Case("ring", 1 << level, "unequal") for level in range(6, 13)),
        *(Case("butterfly", 1 << level) for level in range(6, 19, 4)),
        *(Case("butterfly", 1 << level, "unequal") for level in range(6, 19, 4)),
        *(Case("chain", 1 << level, "unequal") for level in range(8, 15, 2)),
        *(Case("mesh", 1 << level) for level in range(6, 11)),
        *(Case("mesh", 1 << level, "unequal") for level in range(6, 9)),
        *(Case("ring", 1 << level, "racks-in-turn") for level in range(6, 9)),
    ),
}
TITLES = {
    "named": f"{NUM_BYTES >> 20} MiB on a 1 GbE star",
    "shared": f"{NUM_BYTES >> 20} MiB over links that messages of several ranks share",
    "steps": "predictions of ResNet-50's training step, 2 to 256 ranks on 1 GbE stars",
    "growth": f"growth, {NUM_BYTES >> 20} MiB",
}


def run(case: Case, folder: Path | None = None) -> dict[str, Any]:
    """Run a case in a process of its own, with the package in *folder* if it is given."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if folder is not None:
        environment["PYTHONPATH"] = str(folder)
    command = [sys.executable, str(HERE / "simulate_case.py")]
    command += [case.topology, str(case.world_size), case.network]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def fastest(case: Case, rounds: int, older: Path | None) -> tuple[dict[str, Any], float | None]:
    """Return a case's fastest run, and how many times as fast it is as the older version's.

    Raises:
        RuntimeError: if both versions simulate another time.
    """
    new, old = [], []
    for _ in range(rounds):
        new.append(run(case))
        if older is not None and not case.is_long:
            old.append(run(case, older))
    best = max(new, key=rate_of)
    if not old:
        return best, None
    before = max(old, key=rate_of)
    same_work = best["count"] == before["count"]
    if same_work and abs(best["answer"] / before["answer"] - 1) > 1e-9:  # noqa: PLR2004 - rounding
        raise RuntimeError(f"{case}: {best['answer']} s simulated, {before['answer']} s before")
    return best, rate_of(best) / rate_of(before)


def rate_of(found: dict[str, Any]) -> float:
    """Return messages (or predictions) per second."""
    return float(found["count"] / found["wall_s"])


def targets_text(case: Case, found: dict[str, Any]) -> str:
    """Return the targets of a case, and which are missed."""
    texts = []
    for limit, value, text in (
        (case.limit_s, found["wall_s"], f"< {case.limit_s:g} s"),
        (case.limit_bytes, found["peak_bytes"], f"< {case.limit_bytes / 1e6:g} MB"),
        (-case.least_per_s, -rate_of(found), f"> {case.least_per_s:.3g}/s"),
    ):
        if limit not in {float("inf"), 0.0}:
            texts.append(text + (" MISSED" if value > limit else ""))
    return ", ".join(texts)


def show(table: str, cases: tuple[Case, ...], rounds: int, older: Path | None) -> None:
    """Run cases and print a table."""
    print(f"\n{TITLES[table]}")
    print(
        f"{'topology':<25}{'ranks':>8} {'links':<14}{'engine':<7}{'count':>10}{'wall s':>9}"
        f"{'per second':>12}{'peak MB':>8}{'machine':>8}{'ratio':>7}  target"
    )
    for case in cases:
        found, ratio = fastest(case, rounds, older)
        print(
            f"{case.topology:<25}{case.world_size:>8} {case.network:<14}{found['engine']:<7}"
            f"{found['count']:>10}{found['wall_s']:>9.3f}{rate_of(found):>12.3g}"
            f"{found['peak_bytes'] / 1e6:>8.0f}{found['speed'] / 1e6:>8.0f}"
            f"{'' if ratio is None else f'{ratio:.3g}':>7}  {targets_text(case, found)}",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=TABLES, action="append", help="a table; may be repeated")
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    parser.add_argument(
        "--rounds", type=int, default=1, help="runs of each case; the fastest counts"
    )
    parser.add_argument("--against", type=Path, help="folder of an older checkout, for the ratio")
    given = parser.parse_args()
    sizes = (1024, 1 << 22)
    speeds = ", ".join(f"{machine_speed(size) / 1e6:.0f} with {size:,}" for size in sizes)
    load = os.getloadavg()[0]
    print(f"machine: a fixed loop moves {speeds} elements in an array (millions a second)")
    print(f"load before: {load:.2f} on {os.cpu_count()} cores; rounds: {given.rounds}")
    for table in given.only or TABLES:
        cases = tuple(case for case in TABLES[table] if not (given.quick and case.is_long))
        show(table, cases, given.rounds, given.against)


if __name__ == "__main__":
    main()
