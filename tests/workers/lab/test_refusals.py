"""Machines that let a lab have less than everything, or nothing: what is said, and what works."""

import errno
import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from dgc_topo.workers.lab import Lab, LabSpec, doctor, network

TRY = """
import json, sys
from dgc_topo.workers.lab import Lab, LabError, LabSpec, doctor
said = {each.name: [each.usable, each.needed, each.detail] for each in doctor._try_kernel()}
try:
    with Lab(LabSpec(num_hosts=int(sys.argv[1]), rate_bits_per_s=1e8)):
        said["lab"] = "up"
except LabError as error:
    said["lab"] = str(error)
print(json.dumps(said))
"""
AS_ROOT_OF_ITS_OWN = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
WITHOUT_RIGHTS = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]


def tried(around: list[str], num_hosts: int) -> dict[str, Any]:
    command = [*around, sys.executable, "-c", TRY, str(num_hosts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def after(preparation: str) -> list[str]:
    """Return how to run a command where something has been made worse, in namespaces."""
    if not shutil.which("unshare"):
        pytest.skip("no program unshare")
    around = [*AS_ROOT_OF_ITS_OWN, f'{preparation} && exec "$@"', "sh"]
    done = subprocess.run([*around, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this system does not let itself be restricted: {done.stderr}")
    return around


def test_a_read_only_proc_costs_time_only(lab: Lab):
    """As containers have it."""
    around = after("mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys")
    said = tried(around, 2)
    usable, needed, detail = said["windows kept in a pause"]
    assert (usable, needed) == (False, False)
    assert "Read-only file system" in detail
    assert said["two shaped hosts"][0]
    assert said["lab"] == "up"


def test_the_doctor_builds_a_lab_to_know(lab: Lab):
    """There may be namespaces, but not enough."""
    around = after("echo 3 > /proc/sys/user/max_net_namespaces")
    said = tried(around, 3)
    assert said["namespaces"][0]
    usable, needed, detail = said["two shaped hosts"]
    assert (usable, needed) == (False, True)
    assert "user.max_net_namespaces (3 here) is exhausted" in detail
    assert "user.max_net_namespaces (3 here) is exhausted" in said["lab"]


def test_what_is_exhausted_is_named_where_fewer_hosts_fit(lab: Lab):
    said = tried(after("echo 4 > /proc/sys/user/max_net_namespaces"), 3)
    assert said["two shaped hosts"][0]
    assert "user.max_net_namespaces (4 here) is exhausted" in said["lab"]


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, and setpriv"
)
def test_root_without_capabilities_is_told_which(lab: Lab):
    said = tried(WITHOUT_RIGHTS, 1)
    assert not said["namespaces"][0]
    for text in (said["namespaces"][2], said["lab"]):
        assert "root lacks CAP_SYS_ADMIN and CAP_SETFCAP here" in text
        assert "be root" not in text


class _Route:
    """A kernel's answer to everything."""

    def __init__(self, number: int) -> None:
        self.number = number

    def link(self, *_: Any, **__: Any) -> None:
        raise NetlinkError(self.number)


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EOPNOTSUPP])
def test_a_kernel_without_ipv6_is_fine(number):
    network._disable_ipv6(_Route(number), 1)


def test_other_refusals_are_errors():
    with pytest.raises(NetlinkError, match="Operation not permitted"):
        network._disable_ipv6(_Route(errno.EPERM), 1)


def test_a_congestion_control_that_the_kernel_lacks_is_named_with_those_it_has(lab: Lab):
    says = "lab: congestion_control 'nosuch': this kernel has none of that name, expected one of: "
    with (
        pytest.raises(ValueError, match=says + r".*cubic"),
        Lab(LabSpec(num_hosts=1, congestion_control="nosuch")),
    ):
        pass


def test_a_trial_that_does_not_end_is_a_finding(monkeypatch):
    monkeypatch.setattr(doctor, "_TRY_WITHIN_S", 0.01)
    (finding,) = doctor._try_kernel()
    assert (finding.name, finding.usable, finding.needed) == ("trial", False, True)
    assert finding.detail.startswith("no answer within 0.01 s")
