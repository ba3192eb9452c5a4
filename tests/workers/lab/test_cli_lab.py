"""``dgc-topo lab``, as people type it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyroute2
import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.workers.lab import Diagnosis, Lab, LabError, LabSpec
from dgc_topo.workers.lab.doctor import Finding

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[3]
NOBODY = 65534


def test_the_doctor_says_what_works_and_its_status_tells(lab: Lab):
    result = CliRunner().invoke(app, ["lab", "doctor", "--json"])
    diagnosis = json.loads(result.output)
    assert result.exit_code == 0
    assert diagnosis["usable"] is True
    found = {finding["name"]: finding for finding in diagnosis["findings"]}
    for name in ("namespaces", "bridge", "veth", "htb", "cubic", "torch", "gloo", "pyroute2"):
        assert found[name]["usable"], found[name]
    assert {"netem", "fq", "cores", "user"} <= found.keys()
    text = CliRunner().invoke(app, ["lab", "doctor"]).output
    assert "this machine can have a lab" in text


def test_what_is_missing_decides_and_is_said(monkeypatch):
    lacking = Diagnosis(
        (
            Finding("htb", False, True, "the kernel has none"),
            Finding("netem", False, False, "the kernel has none"),
        )
    )
    assert not lacking.usable
    assert lacking.missing == "htb: the kernel has none"
    monkeypatch.setattr("dgc_topo.cli.lab.examine", lambda: lacking)
    result = CliRunner().invoke(app, ["lab", "doctor"])
    assert result.exit_code == 1
    assert "can NOT have a lab" in result.output
    monkeypatch.setattr("dgc_topo.workers.lab.emulator.examine", lambda: lacking)
    monkeypatch.setattr("dgc_topo.workers.remote.receive", lambda _: ({"error": "refused"}, []))
    with (
        pytest.raises(LabError, match=r"cannot be built: htb: the kernel has none \(all about it"),
        Lab(LabSpec(num_hosts=1)),
    ):
        pass


def test_a_command_runs_on_every_host_with_a_launchers_variables(lab: Lab):
    script = "import os; print(*(os.environ[n] for n in ('RANK','WORLD_SIZE','MASTER_ADDR')))"
    command = ["lab", "run", "--hosts", "2", "--rate", "100 Mbit/s", "--"]
    result = CliRunner().invoke(app, [*command, sys.executable, "-c", script])
    assert result.exit_code == 0, result.output
    lines = sorted(result.output.splitlines())
    assert lines == ["[rank 0] 0 2 10.77.0.1", "[rank 1] 1 2 10.77.0.1"]


def test_a_commands_failure_ends_the_others(lab: Lab):
    script = "import os, time; os.environ['RANK'] == '1' and os._exit(7); time.sleep(600)"
    command = ["lab", "run", "--hosts", "2", "--", sys.executable, "-c", script]
    assert CliRunner().invoke(app, command).exit_code == 7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--hosts", "0"], "num_hosts 0, expected a whole number from 1 to 64"),
        (["--hosts", "2", "--rate", "fast"], "--rate 'fast': not a number with a unit"),
        (["--hosts", "2", "--rate", "1 kbit/s"], "--rate: rate 1 kbit/s, expected 1 Mbit/s"),
        (["--hosts", "2", "--rate", "20 Gbit/s", "--queue", "1 s"], "full queue holds 2,500,000,"),
        (["--hosts", "1", "--congestion-control", ""], "congestion_control '', expected a name"),
    ],
)
def test_bad_labs_are_one_clear_message(arguments, says):
    result = CliRunner().invoke(app, ["lab", "run", *arguments, "--", "true"])
    assert result.exit_code == 2
    assert says in result.output


def test_a_user_without_rights_has_a_lab_in_a_user_namespace(lab: Lab, tmp_path):
    code = (
        "import os, sys\n"
        "from dgc_topo.workers.lab import Lab, LabSpec\n"
        "from dgc_topo.workers.lab.command import run_command\n"
        "assert os.geteuid() != 0\n"
        "with Lab(LabSpec(num_hosts=2, rate_bits_per_s=1e8)) as lab:\n"
        "    assert lab.user_namespace\n"
        "    said = []\n"
        "    status = run_command(lab, ['id', '-u'], lambda rank, line: said.append(line))\n"
        "    print(status, *said)\n"
    )
    python, identity = _plain_user()
    packages = Path(pyroute2.__file__).parents[1]
    for needed in (ROOT, packages):
        if subprocess.run(["/usr/bin/test", "-x", needed], check=False, **identity).returncode:
            pytest.skip(f"a plain user may not look into {needed}")
    done = subprocess.run(
        [python, "-B", "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{packages}", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        **identity,
    )
    if "namespaces: " in done.stderr:
        pytest.skip(f"this system lets no plain user: {done.stderr.splitlines()[-1]}")
    who = identity.get("user", os.geteuid())
    assert done.stdout.split() == ["0", str(who), str(who)], done.stderr


def _plain_user() -> tuple[str, dict[str, Any]]:
    """Return a Python that a plain user can run, and that user."""
    if os.geteuid() != 0:
        return sys.executable, {}
    identity: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    enough = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            if subprocess.run([python, "-c", enough], check=False, **identity).returncode == 0:
                return python, identity
        except OSError:
            continue
    pytest.skip("no Python 3.11 here that a plain user may run")
