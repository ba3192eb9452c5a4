"""Keys of earlier releases: they mean what they meant, with one warning line each."""

import math
from typing import ClassVar

import pytest
from pydantic import Field, ValidationError

from dgc_topo.tables.explain import explain
from dgc_topo.tables.table import NewKey, OldKeyWarning, Table, times


class Link(Table):
    """One link."""

    bandwidth_gbit_per_s: float = Field(gt=0)
    old_keys: ClassVar = {
        "bandwidth_mb_per_s": NewKey("bandwidth_gbit_per_s", times(8e-3)),
        "seconds_per_gb": NewKey("bandwidth_gbit_per_s", lambda seconds: 8 / seconds),
    }


class SlowLink(Link):
    """A link with a key of its own."""

    factor: float = 1.0
    old_keys: ClassVar = {"slow": NewKey("factor", table="links")}


class Links(Table):
    """Several."""

    links: tuple[SlowLink, ...] = ()


def test_an_old_key_is_converted_with_one_warning_that_names_file_and_both_keys():
    tables = {"links": [{"bandwidth_mb_per_s": 125.0, "slow": 0.5}]}
    with pytest.warns(OldKeyWarning) as warned:
        links = Links.model_validate(tables, context={"file": "lab.toml"})
    assert links.links == (SlowLink(bandwidth_gbit_per_s=1.0, factor=0.5),)
    assert [str(each.message) for each in warned] == [
        "lab.toml: bandwidth_mb_per_s has a new name, write bandwidth_gbit_per_s = 1.0; "
        "the old one goes with the next release",
        "lab.toml: links.slow has a new name, write links.factor = 0.5; "
        "the old one goes with the next release",
    ]
    assert tables == {"links": [{"bandwidth_mb_per_s": 125.0, "slow": 0.5}]}, "left as it was"


def test_dumps_and_schemas_have_the_new_key_only():
    with pytest.warns(OldKeyWarning, match="^bandwidth_mb_per_s has"):
        link = Link.model_validate_json('{"bandwidth_mb_per_s": 1000}')
    assert link.model_dump() == {"bandwidth_gbit_per_s": 8.0}
    assert list(Link.model_json_schema()["properties"]) == ["bandwidth_gbit_per_s"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bandwidth_mb_per_s", -1),
        ("bandwidth_mb_per_s", "fast"),
        ("bandwidth_mb_per_s", math.inf),
        ("bandwidth_mb_per_s", True),
        ("bandwidth_mb_per_s", [1, 2]),
        ("bandwidth_mb_per_s", 10**400),
        ("seconds_per_gb", 0),
        ("seconds_per_gb", None),
    ],
)
def test_a_wrong_value_is_refused_under_the_new_name(key, value):
    with pytest.warns(OldKeyWarning), pytest.raises(ValidationError) as refused:
        Link.model_validate({key: value})
    line = explain(dict(refused.value.errors()[0]), Link)
    assert line.startswith("bandwidth_gbit_per_s = ")


def test_both_spellings_at_once_are_refused():
    with pytest.raises(ValidationError) as refused:
        Link.model_validate({"bandwidth_mb_per_s": 1, "bandwidth_gbit_per_s": 1})
    assert explain(dict(refused.value.errors()[0]), Link, "networks.0") == (
        "networks.0: bandwidth_mb_per_s is the old name of bandwidth_gbit_per_s, "
        "expected one of them"
    )
