"""The page of all keys of scenarios is complete, and its examples are valid."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dgc_topo.experiments.scenario import Scenario
from dgc_topo.tables.table import Table
from tests.reference import MARK, filled, properties, tables

FILE = Path(__file__).parents[1] / "docs" / "scenarios.md"
PAGE = FILE.read_text(encoding="utf-8")
WHOLE, *PARTS = (
    tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
)


def test_the_tables_are_those_of_the_types():
    """After a change of a key: UPDATE_GOLDEN=1 pytest tests/test_reference.py."""
    made = filled(PAGE)
    if os.environ.get("UPDATE_GOLDEN"):
        FILE.write_text(made, encoding="utf-8")
    assert FILE.read_text(encoding="utf-8") == made


def test_every_key_of_every_table_is_there_once():
    known, shown = tables(), [(m["table"], m["keys"].split()) for m in MARK.finditer(PAGE)]
    said = [(table, key) for table, keys in shown for key in keys]
    assert len(said) == len(set(said))
    for name, table in known.items():
        families = {base.__name__ for base in table.__mro__ if issubclass(base, Table)}
        is_base = any(each is not table and issubclass(each, table) for each in known.values())
        missing = {*properties(table)} - {key for other, key in said if other in families}
        assert is_base or not missing, f"{name}: add {sorted(missing)} to a comment in {FILE.name}"


def test_every_key_says_what_it_means():
    silent = [
        f"{name}.{key}"
        for name, table in tables().items()
        for key, about in properties(table).items()
        if not about.get("description")
    ]
    assert not silent


def test_every_link_to_a_table_leads_somewhere():
    links = {*re.findall(r"\]\(#([\w-]+)\)", filled(PAGE))}
    assert len(links) > 20
    assert links <= {*re.findall(r'<a id="([\w-]+)">', PAGE)}


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: merged(base[key], value) if isinstance(value, dict) and key in base else value
        for key, value in more.items()
    }
    return base | both


@pytest.mark.parametrize("part", [{}, *PARTS], ids=lambda part: " ".join(part) or "whole")
def test_the_examples_are_parts_of_valid_scenarios(part):
    found = Scenario.model_validate(merged(WHOLE, part), context={"folder": ".", "file": "x.toml"})
    assert found.name == "first"
