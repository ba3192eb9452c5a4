"""XML as a tree of elements that know their lines, and readers of their attributes.

Only elements and attributes are kept.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from math import inf
from xml.parsers import expat

_DEEPEST = 100
_TIME_S = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12}
_TIME_S |= {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_PREFIXES |= {f"{prefix}i": 2.0 ** (10 * i) for i, prefix in enumerate("KMGTPE", start=1)}
_BYTES_PER_S = {prefix + "Bps": factor for prefix, factor in _PREFIXES.items()}
_BYTES_PER_S |= {prefix + "bps": factor / 8 for prefix, factor in _PREFIXES.items()} | {"": 1.0}
_SHOWN = ("Bps", "kBps", "MBps", "GBps", "bps", "kbps", "Mbps", "Gbps")
_NUMBER = re.compile(r"\+?((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)")

#: Most hosts of one cluster; a longer range is taken for a mistake.
_MOST_HOSTS = 1 << 22


@dataclass(eq=False, slots=True)
class Element:
    """A tag with its attributes and what is inside.

    Attributes:
        tag: Its name.
        attributes: Attributes by name; an empty text counts as left out, as in SimGrid.
        line: Where it begins.
        children: Elements inside, in order.
    """

    tag: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)

    def get(self, attribute: str, default: str = "") -> str:
        """Return an attribute, or *default*."""
        return self.attributes.get(attribute) or default

    def needed(self, attribute: str) -> str:
        """Return an attribute.

        Raises:
            ValueError: if there is none.
        """
        value = self.get(attribute)
        if not value:
            raise self.error(f"no {attribute}, expected one")
        return value

    def error(self, message: str) -> ValueError:
        """Return an error that names the element and its line."""
        name = self.get("id") or " - ".join(
            self.get(end) for end in ("src", "dst") if self.get(end)
        )
        return ValueError(f"line {self.line}: <{self.tag}> {name}".rstrip() + f": {message}")

    def refuse_others(self, known: Collection[str], tags: Collection[str] = ()) -> None:
        """Refuse attributes that are not *known*, and inner elements that are not in *tags*.

        Raises:
            ValueError: naming the first one.
        """
        for attribute in self.attributes:
            if attribute not in known:
                raise self.error(f"{attribute}: unknown, expected {nearest(attribute, known)}")
        for child in self.children:
            if child.tag not in tags:
                what = f"one of {', '.join(tags)}" if tags else "nothing"
                raise child.error(f"expected {what} in <{self.tag}> {self.get('id')}".rstrip())


def nearest(name: str, known: Collection[str]) -> str:
    """Return the names that are most like *name*, for an error."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    return f"one of {len(known)} such as {', '.join(close)}" if close else "none"


def _refuse_unprintable(element: Element) -> None:
    """Refuse names with control characters or line breaks."""
    for attribute, value in element.attributes.items():
        if element.tag != "prop" and not value.isprintable():
            raise ValueError(
                f"line {element.line}: <{element.tag}>: {attribute} {value!a}, "
                "expected printable characters"
            )


def parse_markup(content: bytes) -> Element:
    """Return the outermost element of an XML text.

    No other file is read, and entities are refused: an external one could be any file of this
    machine, and an internal one can grow without bound.

    Raises:
        ValueError: if it isn't XML, has entities of its own, control characters, or nests too
            deeply.
    """
    parser = expat.ParserCreate()
    outermost: list[Element] = []
    path: list[Element] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if len(path) == _DEEPEST:
            raise ValueError(f"line {parser.CurrentLineNumber}: elements nested too deeply")
        element = Element(tag, attributes, parser.CurrentLineNumber)
        _refuse_unprintable(element)
        (path[-1].children if path else outermost).append(element)
        path.append(element)

    def end(tag: str) -> None:
        del tag
        path.pop()

    def refuse_entity(name: str, *rest: object) -> None:
        del rest
        line = parser.CurrentLineNumber
        raise ValueError(f"line {line}: entity {name}, expected a platform without entities")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.EntityDeclHandler = refuse_entity
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError) as error:
        raise ValueError(f"not XML ({error}), expected a SimGrid platform") from error
    return outermost[0]


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
