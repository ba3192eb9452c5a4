"""Try the kernel's side of a lab; run by `dgc_topo.workers.lab.doctor` in a process of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pyroute2 import IPRoute

from dgc_topo.workers.lab.daemon import REFUSALS, text_of
from dgc_topo.workers.lab.doctor import Finding
from dgc_topo.workers.lab.namespaces import leave_machine
from dgc_topo.workers.lab.network import LabNetwork, keep_windows
from dgc_topo.workers.lab.shaping import Shape, shape_host
from dgc_topo.workers.lab.spec import LabSpec

_CONGESTION_CONTROLS = ("cubic", "reno", "bbr", "dctcp")
_RATE_BITS_PER_S = 100e6
_NEEDED = LabSpec(num_hosts=1).congestion_control
_DEFAULT_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def main() -> None:
    """Print what was found as JSON."""
    sys.stdout.write(json.dumps([asdict(finding) for finding in _findings()]))


def _findings() -> list[Finding]:
    default = _DEFAULT_CONTROL.read_text().strip()
    try:
        own_user = leave_machine()
    except OSError as error:
        return [Finding("namespaces", False, True, text_of(error))]
    how = "network and process ids, " + ("inside a user namespace" if own_user else "as root")
    return [
        Finding("namespaces", True, True, how),
        _attempt("process descriptors", lambda: os.pidfd_open(os.getpid()), needed=True),
        *_links(),
        *_controls(default),
        _attempt("windows kept in a pause", keep_windows, needed=False),
        _attempt("two shaped hosts", _build, needed=True),
    ]


def _build() -> None:
    """Build the smallest lab: whatever the list above does not know of fails here."""
    LabNetwork(LabSpec(num_hosts=2, rate_bits_per_s=_RATE_BITS_PER_S)).close()


def _links() -> list[Finding]:
    with IPRoute() as route:
        add = route.link
        found = [
            _attempt("bridge", lambda: add("add", ifname="b0", kind="bridge"), needed=True),
            _attempt(
                "veth",
                lambda: add("add", ifname="v0", kind="veth", peer={"ifname": "v1"}),
                needed=True,
            ),
        ]
        if not all(finding.usable for finding in found):
            return found
        (link,) = route.link_lookup(ifname="v0")
        shapes = {
            "htb": {"default": 0x10},
            "netem": {"delay": 1000},
            "fq": {},
        }
        for kind, options in shapes.items():
            found.append(_queue(route, link, kind, options, needed=kind == "htb"))
        shape = Shape(1e6, 0.1)
        first = _attempt(
            "acknowledgements first", lambda: shape_host(route, link, None, shape), needed=True
        )
        return [*found, first]


def _queue(
    route: IPRoute, link: int, kind: str, options: dict[str, int], *, needed: bool
) -> Finding:
    finding = _attempt(
        kind, lambda: route.tc("add", kind, link, 0x1_0000, **options), needed=needed
    )
    if finding.usable:
        route.tc("del", index=link, handle=0x1_0000, root=True)
    return finding


def _controls(default: str) -> list[Finding]:
    """Routes take only congestion controls that there are."""
    found = [Finding("congestion control", True, False, f"{default} by default")]
    with IPRoute() as route:
        (link,) = route.link_lookup(ifname="lo")
        route.link("set", index=link, state="up")
        for number, name in enumerate(_CONGESTION_CONTROLS):
            metrics = {"cc_algo": name}
            add = _route(route, f"10.99.{number}.0/24", link, metrics)
            found.append(_attempt(name, add, needed=name == _NEEDED))
    return found


def _route(route: IPRoute, where: str, link: int, metrics: dict[str, str]) -> Callable[[], object]:
    return lambda: route.route("add", dst=where, oif=link, metrics=metrics)


def _attempt(name: str, action: Callable[[], object], *, needed: bool) -> Finding:
    try:
        action()
    except REFUSALS as error:
        return Finding(name, False, needed, f"missing, or not allowed: {text_of(error)}")
    return Finding(name, True, needed, "works")


if __name__ == "__main__":
    main()
