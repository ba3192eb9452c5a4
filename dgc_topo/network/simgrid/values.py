"""What attributes say: rates, times, choices and ranges of numbers."""

from __future__ import annotations

import re
from collections.abc import Collection
from math import inf

from dgc_topo.network.simgrid.markup import Element

_TIME_S = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12}
_TIME_S |= {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_PREFIXES |= {f"{prefix}i": 2.0 ** (10 * i) for i, prefix in enumerate("KMGTPE", start=1)}
_BYTES_PER_S = {prefix + "Bps": factor for prefix, factor in _PREFIXES.items()}
_BYTES_PER_S |= {prefix + "bps": factor / 8 for prefix, factor in _PREFIXES.items()} | {"": 1.0}
_SHOWN = ("Bps", "kBps", "MBps", "GBps", "bps", "kbps", "Mbps", "Gbps")
_NUMBER = re.compile(r"\+?((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)")

#: Hosts of one cluster; a longer range is taken for a mistake.
_MOST_HOSTS = 1 << 22


def read_rate(element: Element, attribute: str) -> float:
    """Return an attribute in bytes per second.

    Raises:
        ValueError: if it isn't there, isn't a number with a unit of rates, or not above 0.
    """
    rate = _number(element, attribute, _BYTES_PER_S, _SHOWN)
    if not 0 < rate < inf:
        raise element.error(f"{attribute} {element.get(attribute)!r}, expected above 0, and finite")
    return rate


def read_time(element: Element, attribute: str) -> float:
    """Return an attribute in seconds, 0 if it is left out.

    Raises:
        ValueError: if it isn't a number with a unit of time.
    """
    if not element.get(attribute):
        return 0.0
    time_s = _number(element, attribute, _TIME_S, [unit for unit in _TIME_S if unit])
    if not time_s < inf:
        raise element.error(f"{attribute} {element.get(attribute)!r}, expected a finite time")
    return time_s


def read_choice(element: Element, attribute: str, choices: Collection[str], default: str) -> str:
    """Return an attribute that is one of *choices*.

    Raises:
        ValueError: if it is something else.
    """
    value = element.get(attribute, default)
    if value not in choices:
        raise element.error(f"{attribute} {value}, expected {' or '.join(choices)}")
    return value


def read_radical(element: Element) -> list[int]:
    """Return the numbers in ``0-3,7``; a range may be written from either end.

    Raises:
        ValueError: if it is something else, or names a number twice.
    """
    text = element.needed("radical")
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})(?:-([0-9]{1,18}))?\s*", part)
        if match is None:
            raise element.error(f"radical {text!r}, expected numbers like 0-3,7")
        first, last = sorted((int(match[1]), int(match[2] or match[1])))
        if len(numbers) + last - first >= _MOST_HOSTS:
            raise element.error(f"radical {text!r}, expected at most {_MOST_HOSTS} hosts")
        numbers += range(first, last + 1)
    return numbers


def _number(
    element: Element, attribute: str, units: dict[str, float], shown: Collection[str]
) -> float:
    text = element.needed(attribute).strip()
    match = _NUMBER.fullmatch(text)
    if match is None or match[2] not in units:
        raise element.error(
            f"{attribute} {text!r}, expected a number with one of {', '.join(shown)}"
        )
    return float(match[1]) * units[match[2]]
