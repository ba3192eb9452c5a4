"""No number, text or truth value in the wrong place gets further than a line with file and key."""

import copy
import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from pydantic import BaseModel, ValidationError

from dgc_topo.experiments.scenario import Scenario, ScenarioError, parse_scenario
from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.tables.explain import explain
from dgc_topo.tables.table import Table

EVERYTHING = (Path(__file__).parent / "everything.toml").read_text()
SHIPPED = Path(__file__).parent.parent / "scenarios"
WRONG = [math.inf, -math.inf, math.nan, 1e300, 10**400, -1, True, "5", "x", [], {}]


def tables_in(kind: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """Return all tables that a table can hold, and itself."""
    if kind not in seen:
        seen.add(kind)
        for field in kind.model_fields.values():
            for inner in models_in(field.annotation):
                tables_in(inner, seen)
    return seen


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from models_in(part)


TABLES = sorted(
    tables_in(Scenario, tables_in(CalibratedNetwork, set())),
    key=lambda table: (table.__name__, table.__module__),
)


def numeric_keys(table):
    """Return the keys of a table whose JSON schema has a number in it, and no text."""
    properties = table.model_json_schema(by_alias=True)["properties"]
    numbers = {"number", "integer"}
    return [key for key, about in properties.items() if numbers & set(types_in(about))]


def types_in(about):
    """Yield the types in a property, not in the tables and dictionaries that it refers to."""
    if "type" in about and about["type"] != "object":
        yield about["type"]
    for key in ("anyOf", "prefixItems"):
        for part in about.get(key, ()):
            yield from types_in(part)
    if isinstance(about.get("items"), dict):
        yield from types_in(about["items"])


def test_all_tables_are_of_one_kind():
    assert len(TABLES) > 30
    assert [table.__name__ for table in TABLES if not issubclass(table, Table)] == []


@pytest.mark.parametrize("table", TABLES, ids=lambda t: f"{t.__module__}.{t.__name__}")
def test_every_numeric_key_of_every_table_takes_only_numbers_of_this_world(table):
    for key in numeric_keys(table):
        lists = "array" in types_in(table.model_json_schema(by_alias=True)["properties"][key])
        for wrong in (math.inf, -math.inf, math.nan, 1e300, 10**400, True):
            with pytest.raises(ValidationError) as refused:
                table.model_validate({key: [wrong] if lists else wrong})
            lines = [explain(dict(problem), table) for problem in refused.value.errors()]
            named = [line for line in lines if line.startswith(key)]
            assert named, (key, wrong, lines)
            assert "\n" not in named[0]


def leaves(value, at=()):
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            yield from leaves(each, (*at, key))
    else:
        yield at


def changed(tables, at, wrong):
    """Return the text of *tables* with another value at one place."""
    changed = inner = copy.deepcopy(tables)
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = wrong
    return tomli_w.dumps(changed)


TEXTS = {
    "everything": EVERYTHING,
    **{
        name: (SHIPPED / f"{name}.toml").read_text()
        for name in ("validate-1gbe-scaled", "ladder-austen", "throughput-1gbe-scaled")
    },
}


@pytest.mark.parametrize("name", TEXTS)
def test_whatever_stands_in_a_place_is_taken_or_refused_by_key(name):
    tables = tomllib.loads(TEXTS[name])
    places, last = [], None
    for at in leaves(tables):
        if [key for key in at if isinstance(key, str)] != last:  # one item of each list
            places.append(at)
        last = [key for key in at if isinstance(key, str)]
    for at in places:
        for wrong in WRONG:
            try:
                parse_scenario(changed(tables, at, wrong), "s.toml")
            except ScenarioError as error:
                lines = str(error).splitlines()
                assert all(line.startswith("s.toml: ") for line in lines)
                numeric = isinstance(wrong, float | int) or not wrong
                key = next(part for part in reversed(at) if isinstance(part, str))
                assert not numeric or len(lines) == 1, lines
                assert not numeric or key in lines[0], (at, wrong, lines)


def test_text_where_true_or_false_is_meant_is_refused():
    text = EVERYTHING.replace("[compression]", "[compression]\naccumulation = 1", 1)
    with pytest.raises(
        ScenarioError, match=r"compression\.accumulation = 1: expected true or false"
    ):
        parse_scenario(text)
    with pytest.raises(ScenarioError, match=r"union_exponent = '0.9': expected a number"):
        parse_scenario(EVERYTHING.replace("union_exponent = 0.9", "union_exponent = '0.9'"))


def test_a_calibrated_file_is_held_to_the_same(tmp_path):
    file = tmp_path / "lab.toml"
    fit = "median_fit_error = 0.01\nworst_fit_error = 0.1\n"
    for value, says in (("inf", "finite number"), ("true", "expected a number")):
        file.write_text(f"name = 'lab'\nmachine = 'm'\n{fit}[parameters]\nlatency_s = {value}\n")
        with pytest.raises(ValueError, match=rf"lab\.toml: parameters.*latency_s.*{says}"):
            CalibratedNetwork.load(file)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "hosts_per_rack = 2",
            "hosts_per_rack = 100000",
            "num_racks x hosts_per_rack: 200,000 hosts",
        ),
        ("ports = 4", "ports = 1000", r"ports\^3 / 4: 250,000,000 hosts, expected at most 65,536"),
        ("num_columns = 2", "num_columns = 65536", "num_rows x num_columns: 131,072 hosts"),
        (
            "gpus_per_host = 2",
            "gpus_per_host = 65536",
            "hosts x gpus_per_host: 131,072 GPUs",
        ),
        ("num_hosts = 4", "num_hosts = 1000000000", "num_hosts = 1000000000: expected less than"),
        (
            "jitter_steps = 2",
            "jitter_steps = 1000000000",
            "jitter_steps = 1000000000: expected less",
        ),
        (
            "compressible_elements = 1000000",
            "compressible_elements = 0",
            r"workloads\.0\.compressible_elements = 0 with densities below 1: nothing to compress",
        ),
    ],
)
def test_what_no_machine_could_hold_or_nothing_could_be_made_of_is_refused(old, new, says):
    with pytest.raises(ScenarioError, match=rf"^s\.toml: [^\n]*{says}[^\n]*$"):
        parse_scenario(EVERYTHING.replace(old, new, 1), "s.toml")
