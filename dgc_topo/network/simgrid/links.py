"""The links of a SimGrid platform: numbers for the network, names for routes."""

from __future__ import annotations

from typing import NamedTuple

from dgc_topo.network.simgrid.markup import Element, nearest

#: Sharing policies: one link per way (two names for that), one for both ways, or no sharing.
POLICIES = ("SPLITDUPLEX", "SHARED", "FATPIPE", "FULLDUPLEX")


class Ways(NamedTuple):
    """The two links behind one name, there and back; the same link twice if both ways share it."""

    up: int
    down: int

    @property
    def back(self) -> Ways:
        """The same, the other way round."""
        return Ways(self.down, self.up)


class Links:
    """All links, by number.

    Attributes:
        bandwidth_bytes_per_s: Bandwidth of each link.
        latency_s: Latency of each link.
        names: Names for people.
        pipes: Links that flows do not share: each flow may have the whole bandwidth.
        limits: Links that stand for a host's limit both ways, not for a wire.
    """

    def __init__(self) -> None:
        self.bandwidth_bytes_per_s: list[float] = []
        self.latency_s: list[float] = []
        self.names: list[str] = []
        self.pipes: set[int] = set()
        self.limits: set[int] = set()
        self._known: dict[str, tuple[Ways, int]] = {}  # with the line of the element

    def add(self, name: str, bandwidth_bytes_per_s: float, latency_s: float) -> int:
        """Add a link and return its number."""
        self.names.append(name)
        self.bandwidth_bytes_per_s.append(bandwidth_bytes_per_s)
        self.latency_s.append(latency_s)
        return len(self.names) - 1

    def add_ways(self, name: str, rate: tuple[float, float], policy: str) -> Ways:
        """Add a link with both its ways.

        Args:
            name: Name for people.
            rate: Bandwidth and latency.
            policy: One of `POLICIES`.
        """
        if policy in {"SPLITDUPLEX", "FULLDUPLEX"}:
            return Ways(self.add(f"{name} up", *rate), self.add(f"{name} down", *rate))
        link = self.add(name, *rate)
        if policy == "FATPIPE":
            self.pipes.add(link)
        return Ways(link, link)

    def define(self, element: Element, name: str, ways: Ways) -> None:
        """Give links the *name* that routes use, and names for each way if the ways differ.

        The names for each way end with ``_UP`` and ``_DOWN``.

        Raises:
            ValueError: if there is such a name already.
        """
        self._refuse_again(element, name, split=ways.up != ways.down)
        self._known[name] = ways, element.line

    def _refuse_again(self, element: Element, name: str, *, split: bool) -> None:
        for other in (name, f"{name}_UP", f"{name}_DOWN") if split else (name,):
            if other in self._known or self._one_way(other) is not None:
                line = self._known.get(other, self._known.get(name.rpartition("_")[0]))
                before = "" if line is None else f" (it is on line {line[1]})"
                raise element.error(f"link {other} again, expected it once{before}")

    def _one_way(self, name: str) -> Ways | None:
        """Return one way of a link, for a name that ends with ``_UP`` or ``_DOWN``."""
        base, _, way = name.rpartition("_")
        if way not in {"UP", "DOWN"} or base not in self._known:
            return None
        up, down = self._known[base][0]
        link = up if way == "UP" else down
        return None if up == down else Ways(link, link)

    def find(self, element: Element, name: str) -> Ways:
        """Return the links behind a name.

        Raises:
            ValueError: if there is no such link before *element*.
        """
        if name in self._known:
            return self._known[name][0]
        ways = self._one_way(name)
        if ways is None:
            near = nearest(name, self._known)
            raise element.error(f"{name}: no such link before, expected {near}")
        return ways

    def of_route(self, route: Element) -> tuple[list[int], list[int]]:
        """Return the links that a route crosses, and the links of its way back.

        Raises:
            ValueError: if there is none, or one is unknown, or is named a way that it hasn't got.
        """
        there: list[int] = []
        back: list[int] = []
        for part in route.children:
            part.refuse_others({"id", "direction"})
            ways = self.find(part, part.needed("id"))
            direction = part.get("direction", "NONE")
            if direction not in {"UP", "DOWN", "NONE"}:
                raise part.error(f"direction {direction}, expected UP, DOWN or NONE")
            if direction != "NONE" and ways.up == ways.down:
                raise part.error(f"direction {direction} of a link that is not SPLITDUPLEX")
            ways = ways.back if direction == "DOWN" else ways
            there.append(ways.up)
            back.insert(0, ways.down)
        if not there:
            raise route.error("no links, expected at least one <link_ctn>")
        return there, back
