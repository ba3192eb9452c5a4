"""Rules by name: from texts and tables, and in files."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
)

from dgc_topo.averaging.over_all_reduce import DiLoCo, Gradients, LocalSGD, SparseLoCo, Updates
from dgc_topo.averaging.over_gossip import DPSGD, Choco, DGCGossip, NoLoCo, PushSum
from dgc_topo.averaging.own_rule import own_averaging
from dgc_topo.averaging.rule import Averaging
from dgc_topo.tables.explain import explain
from dgc_topo.tables.keys import EachOnce
from dgc_topo.tables.places import folder_of_scenario
from dgc_topo.topology_options import OptionValue, number_or_text, split_text

_LOCAL = Updates, LocalSGD, DiLoCo, SparseLoCo
_GOSSIPS = DPSGD, PushSum, Choco, DGCGossip, NoLoCo
_RULES: dict[str, type[Averaging]] = {each.rule: each for each in (Gradients, *_LOCAL, *_GOSSIPS)}


def known_averagings() -> tuple[str, ...]:
    """Return the names of all averaging rules.

    Example:
        >>> "diloco" in dt.known_averagings()
        True
    """
    return tuple(_RULES)


def load_averaging(
    source: str | Averaging, /, folder: str | Path = "", **options: OptionValue
) -> Averaging:
    """Return an averaging rule by its name or its text form.

    Args:
        source: ``"diloco"``, ``"diloco:every=50"``, a rule, which is returned as it is, or the path
            of a file with a rule of one's own, see `AveragingRule`: ``"mine.py:every=50"``.
        folder: Where the file is if its path is relative; the current folder by default.
        options: The rule's own options: ``load_averaging("diloco", every=50)``.

    Raises:
        ValueError: if there is no such rule or option, listing the nearest valid ones.

    Example:
        >>> dt.load_averaging("diloco", every=50)
        Averaging('diloco:every=50')
        >>> dt.load_averaging("diloco:every=50").outer_learning_rate
        0.7
    """
    if isinstance(source, Averaging):
        if not options:
            return source
        given = {**source.options, **options}
        if source.code is None:
            return _made(source.rule, given)
        return own_averaging(source.code.name, given, source.code.folder, source.code.digest)
    if not isinstance(source, str):
        raise ValueError(f"averaging {source!r}: expected a rule's name or text form")  # noqa: TRY004
    name, found = split_text(source, what="averaging")
    plain = {
        key: number_or_text(value) if isinstance(value, str) else value
        for key, value in found.items()
    }
    return _made(name, {**plain, **options}, folder)


def read_averaging(value: object, info: ValidationInfo) -> Averaging:
    """Return the rule that a file or a message holds: a text, a table, or the value itself.

    A relative path in a file begins in the file's folder.  Messages say it, and the fingerprint of
    the text.
    """
    is_file = info.context is not None and "folder" in info.context
    folder = str(folder_of_scenario("", info))
    if isinstance(value, dict):
        table, digest = dict(value), None
        if not is_file:
            folder, digest = table.pop("folder", ""), table.pop("digest", None)
        name = table.pop("rule", None)
        if not isinstance(name, str):
            missing = f"rule: missing, expected one of {', '.join(_RULES)}"
            raise ValueError(missing)  # noqa: TRY004  # pydantic tells it with its key
        return _made(name, table, folder, digest)
    return load_averaging(value, folder)  # type: ignore[arg-type]  # which refuses what is none


def table_of(averaging: Averaging | None) -> dict[str, Any] | None:
    """Return the table that files and messages hold instead of a rule."""
    if averaging is None:
        return None
    table = {"rule": averaging.rule, **averaging.options}
    if averaging.code is not None:
        table |= {"folder": averaging.code.folder, "digest": averaging.code.digest}
    return table


def _made(
    name: str,
    options: Mapping[str, object],
    folder: str | Path = "",
    digest: str | None = None,
) -> Averaging:
    if name.endswith(".py"):
        return own_averaging(name, options, folder, digest)
    if name not in _RULES:
        close = difflib.get_close_matches(name, _RULES, n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(
            f"averaging {name!r}: expected one of {', '.join(_RULES)}, or the path of a .py "
            f"file{hint}"
        )
    try:
        return _RULES[name].model_validate(dict(options))
    except ValidationError as error:
        said = explain(dict(error.errors()[0]), _RULES[name])
        raise ValueError(f"averaging {name!r}: {said}") from error


_Given = str | dict[str, OptionValue]

#: A rule in a table of a file: a text, or a table with its *rule* and options.
AveragingChoice = Annotated[
    Averaging,
    PlainValidator(read_averaging, json_schema_input_type=_Given),
    PlainSerializer(table_of),
]


def _in_list(value: object) -> object:
    return [value] if isinstance(value, str | dict | Averaging) else value


#: Rules in a file: one, or a list of them, each once.
Averagings = Annotated[
    tuple[AveragingChoice, ...],
    BeforeValidator(_in_list, json_schema_input_type=_Given | list[_Given]),
    EachOnce,
]
