"""Tables of keys in the documentation, made from the types that read the files.

A page has comments ``<!-- keys TABLE: first second -->``; the Markdown table behind each is made of
these keys of that table.  ``UPDATE_GOLDEN=1 pytest tests/test_reference.py`` writes them anew.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from dgc_topo.experiments.scenario import Scenario
from dgc_topo.tables.table import Table

MARK = re.compile(r"<!-- keys (?P<table>\w+): (?P<keys>[\w ]+) -->\n(?P<rows>(?:\|.*\n)*)")
UNITS = {
    "_s_per_byte": "s per byte",
    "_s_per_element": "s per element",
    "_s_per_message": "s per message",
    "_gbit_per_s": "Gbit/s",
    "_times_us": "bytes and µs",
    "_us": "µs",
    "_mib": "MiB",
    "bytes": "bytes",
    "_epochs": "epochs",
    "_elements": "elements",
    "_s": "s",
}
_MANY = 12  # names in a list
_WORDS = {
    "array": "list",
    "object": "table",
    "boolean": "`true` or `false`",
    "string": "text",
    "integer": "whole number",
    "number": "number",
}


def tables() -> dict[str, type[Table]]:
    """Return the types of all tables of a scenario, and those that they build on, by name."""
    known = {each.__name__: each for each in _below(Table)}
    wanted = ["Scenario", *Scenario.model_json_schema(by_alias=True)["$defs"]]
    found: dict[str, type[Table]] = {}
    for name in wanted:
        for base in known[name].__mro__:
            if issubclass(base, Table) and base is not Table and properties(base):
                found[base.__name__] = base
    return found


def _below(table: type[BaseModel]) -> Iterator[type[Any]]:
    for each in table.__subclasses__():
        if each.__module__.startswith("dgc_topo."):  # tests make tables of their own
            yield each
            yield from _below(each)


def schema_of(table: type[BaseModel]) -> dict[str, Any]:
    return table.model_json_schema(by_alias=True)


def properties(table: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Return the schema of each key that people write."""
    found: dict[str, dict[str, Any]] = schema_of(table).get("properties", {})
    return found


def rows(table: type[BaseModel], keys: list[str]) -> str:
    """Return the Markdown table of some keys."""
    schema = schema_of(table)
    lines = ["| key | value | unit | default | meaning |", "| --- | --- | --- | --- | --- |"]
    for key in keys:
        about = schema["properties"][key]
        needed = key in schema.get("required", [])
        cells = [f"`{key}`", kind(about, schema), unit(key), default(about, needed=needed)]
        cells.append(meaning(about))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def unit(key: str) -> str:
    return next((text for end, text in UNITS.items() if key.endswith(end)), "")


def meaning(about: dict[str, Any]) -> str:
    text = str(about.get("description", "")).replace("``", "`").strip()
    text = re.sub(r"(?<![\w*])\*(\w+)\*(?![\w*])", r"`\1`", text)
    return text.replace("[[", "\\[\\[").replace("]]", "\\]\\]").replace("c**exp", "c\\*\\*exp")


def default(about: dict[str, Any], *, needed: bool) -> str:
    if needed:
        return "**needed**"
    value = about.get("default")
    if value is None or value in ([], "", {}) or isinstance(value, dict):
        return ""
    return f"`{json.dumps(value)}`"


def kind(about: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return the values that a key takes."""
    if "$ref" in about:
        return f"[table](#{anchor(about['$ref'].rpartition('/')[2])})"
    if "discriminator" in about:
        return "table by `kind`"
    if choices := about.get("anyOf") or about.get("oneOf"):
        shown = [kind({**about, **each, "anyOf": None}, schema) for each in choices]
        return " or ".join(dict.fromkeys(text for text in shown if text))
    if names := [f'`"{name}"`' for name in about.get("enum", [about.get("const")]) if name]:
        return ", ".join(names[:_MANY]) + (", ..." if len(names) > _MANY else "")
    return _plain_kind(about, schema)


def _plain_kind(about: dict[str, Any], schema: dict[str, Any]) -> str:
    if ".py:" in about.get("pattern", ""):
        return "`file.py:NAME`"
    word = _WORDS.get(about.get("type", ""), "")
    if word == "list" and "prefixItems" not in about:
        inner = kind(about.get("items", {}), schema)
        return f"list of {inner}" if inner else word
    if word == "text" and about.get("format") == "path":
        return "path"
    return word + (bounds(about) if "number" in word else "")


def bounds(about: dict[str, Any]) -> str:
    signs = {
        "exclusiveMinimum": ">",
        "gt": ">",
        "minimum": "≥",
        "ge": "≥",
        "exclusiveMaximum": "<",
        "maximum": "≤",
        "le": "≤",
    }
    found = [f"{sign} {about[key]:,}" for key, sign in signs.items() if about.get(key) is not None]
    return f" {', '.join(found)}" if found else ""


def anchor(table: str) -> str:
    """Return the anchor of a table: a section's name, or one made of its type's."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", table.strip("_")).lower()
    return words.removesuffix("-section") if words.endswith("-section") else f"keys-{words}"


def filled(page: str) -> str:
    """Return a page with its tables made anew."""
    known = tables()

    def fill(found: re.Match[str]) -> str:
        table, keys = known[found["table"]], found["keys"].split()
        return f"<!-- keys {found['table']}: {' '.join(keys)} -->\n{rows(table, keys)}"

    return MARK.sub(fill, page)
