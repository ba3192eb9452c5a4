"""XML as a tree of elements that know their lines; nothing but elements and attributes counts."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass, field
from xml.parsers import expat

_DEEPEST = 100


@dataclass(eq=False, slots=True)
class Element:
    """A tag with its attributes and what is inside.

    Attributes:
        tag: Its name.
        attributes: What it says, by name; an empty text counts as left out, as in SimGrid.
        line: Where it begins.
        children: What is inside, in order.
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
        """Return an error that says where the element is and what it is called."""
        name = self.get("id") or " - ".join(
            self.get(end) for end in ("src", "dst") if self.get(end)
        )
        return ValueError(f"line {self.line}: <{self.tag}> {name}".rstrip() + f": {message}")

    def refuse_others(self, known: Collection[str], tags: Collection[str] = ()) -> None:
        """Refuse attributes that are not *known*, and what is inside that is none of *tags*.

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
    """Return the few names that are most like *name*, for an error."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    return f"one of {len(known)} such as {', '.join(close)}" if close else "none"


def _refuse_unprintable(element: Element) -> None:
    """Refuse names that would do something to a terminal, or to the line that they stand in."""
    for attribute, value in element.attributes.items():
        if element.tag != "prop" and not value.isprintable():
            raise ValueError(
                f"line {element.line}: <{element.tag}>: {attribute} {value!a}, "
                "expected printable characters"
            )


def parse_markup(content: bytes) -> Element:
    """Return the outermost element of an XML text.

    No other file is read, and entities are refused: an outer one could be any file of this
    machine, an inner one can grow without bound.

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
