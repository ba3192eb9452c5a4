"""Trial of a wheel on several Pythons and versions of torch, each in an environment of its own.

Run ``python -m tools.wheel_matrix python3.11=2.6.0 python3.13=2.15.0``: every argument is a Python
and a version of torch.  A cell installs the wheel of this checkout into a new virtual environment,
and runs what a new user would.  The table goes to standard output as Markdown; what failed is shown
on standard error, and makes the exit status 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).resolve().parent.parent
_MOST_WHEEL_BYTES = 8_000_000
_LIMIT_S = 1800.0

_SCENARIO = """
name = "trial"
description = "a short training on two workers"
topologies = ["ring"]
[train]
dataset = "fashion-mnist-subset"
model = "mlp"
world_size = 2
batch_size_per_worker = 16
epochs = 1
max_steps_per_epoch = 10
learning_rate = 0.1
[compression]
densities = [1.0, 0.01]
warm_up = "none"
[simulate]
networks = ["1gbe"]
world_sizes = [2, 8]
"""


class Trial(NamedTuple):
    """Command of a new user, and a text that its output must have."""

    name: str
    command: tuple[str, ...]
    expected: str


_TRIALS = (
    Trial("version", ("dgc-topo", "--version"), "dgc-topo"),
    Trial(
        "advise", ("dgc-topo", "advise", "resnet50", "--hosts", "8", "--network", "1gbe"), "x of"
    ),
    Trial("verify", ("dgc-topo", "verify", "butterfly", "-n", "6"), "proved"),
    Trial("compare", ("dgc-topo", "compare", "trial.toml", "-o", "results"), "report:"),
    Trial("torchrun", ("torchrun", "--nproc-per-node", "2", "ddp.py"), "loss"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """Result of one Python with one torch.

    Attributes:
        python: Version of Python.
        torch: Version of torch that was installed.
        install_s: Seconds that installing took.
        first_answer_s: Seconds of `dgc-topo advise`, the first useful answer.
        failed: Names of the trials that failed, with the end of their output.
    """

    python: str
    torch: str
    install_s: float
    first_answer_s: float
    failed: tuple[tuple[str, str], ...]


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout, and check its size.

    Raises:
        RuntimeError: if it is larger than a wheel without compiled code should be.
    """
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps")
    subprocess.run([*pip, "-w", str(folder), str(_ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    if wheel.stat().st_size > _MOST_WHEEL_BYTES or not wheel.name.endswith("-py3-none-any.whl"):
        raise RuntimeError(
            f"{wheel.name}: {wheel.stat().st_size} bytes, expected a small pure wheel"
        )
    return wheel


def try_cell(python: str, torch: str, wheel: Path, folder: Path) -> Cell:
    """Install the wheel beside a version of torch, and run every trial."""
    subprocess.run([python, "-m", "venv", folder / "env"], check=True)
    bin_folder = folder / "env" / "bin"
    started_s = time.monotonic()
    pip = (str(bin_folder / "python"), "-m", "pip", "install", "--quiet")
    install = (*pip, f"torch=={torch}", str(wheel))
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    install_s = time.monotonic() - started_s
    if done.returncode:
        return Cell(python, torch, install_s, 0.0, (("install", done.stderr[-600:]),))
    (folder / "trial.toml").write_text(_SCENARIO, encoding="utf-8")
    script = (_ROOT / "examples" / "ddp" / "with_dgc.py").read_text(encoding="utf-8")
    (folder / "ddp.py").write_text(script, encoding="utf-8")
    times_s, failed = {}, []
    for trial in _TRIALS:
        text, status, times_s[trial.name] = _run(trial.command, bin_folder, folder)
        if status or trial.expected not in text:
            failed.append((trial.name, text[-600:]))
    versions = "import platform, torch; print(platform.python_version(), torch.__version__)"
    text, _, _ = _run(("python", "-c", versions), bin_folder, folder)
    found = text.split()[-2:]
    return Cell(found[0], found[1], install_s, times_s["advise"], tuple(failed))


def _run(command: tuple[str, ...], bin_folder: Path, folder: Path) -> tuple[str, int, float]:
    """Return the output, exit status and seconds of a command in a bare environment."""
    bare = {"PATH": f"{bin_folder}:/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"}
    started_s = time.monotonic()
    done = subprocess.run(
        [bin_folder / command[0], *command[1:]],
        cwd=folder,
        env={**bare, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    return done.stdout, done.returncode, time.monotonic() - started_s


def table(cells: list[Cell], wheel_bytes: int) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    names = [trial.name for trial in _TRIALS]
    yield f"Wheel: {wheel_bytes / 1e6:.2f} MB."
    yield ""
    yield f"| Python | torch | install | first answer | {' | '.join(names)} |"
    yield f"| --- | --- | ---: | ---: | {' | '.join('---' for _ in names)} |"
    for cell in cells:
        failed = {name for name, _ in cell.failed}
        marks = ["failed" if {name, "install"} & failed else "passed" for name in names]
        times = f"{cell.install_s:.0f} s | {cell.first_answer_s:.1f} s"
        yield f"| {cell.python} | {cell.torch} | {times} | {' | '.join(marks)} |"


def main(arguments: list[str]) -> int:
    """Try every cell, and print the table."""
    pairs = [argument.partition("=")[::2] for argument in arguments]
    if not pairs or not all(python and torch for python, torch in pairs):
        sys.stderr.write("expected arguments such as python3.12=2.11.0: a Python, and a torch\n")
        return 2
    cells = []
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "wheel").mkdir()
        wheel = build_wheel(Path(place) / "wheel")
        wheel_bytes = wheel.stat().st_size
        for number, (python, torch) in enumerate(pairs):
            with tempfile.TemporaryDirectory(dir=place, prefix=f"cell-{number}-") as folder:
                cells.append(try_cell(python, torch, wheel, Path(folder)))
            for name, text in cells[-1].failed:
                sys.stderr.write(f"{python} with torch {torch}: {name} failed:\n{text}\n")
    sys.stdout.write("\n".join(table(cells, wheel_bytes)) + "\n")
    return int(any(cell.failed for cell in cells))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
