"""Averaging rules: what the ranks of a training average, how often, and over what topologies.

===========  =====================================  ============  ========================
rule         what is averaged                       over          what moves the parameters
===========  =====================================  ============  ========================
gradients    the gradient, or what DGC sends of it  all-reduce    the update that follows
updates      the change of H steps of one's own     all-reduce    the mean change
local-sgd    the same                               all-reduce    the mean change
diloco       the same                               all-reduce    an outer Nesterov step
sparse-loco  the same, with a residual              all-reduce    an outer step
d-psgd       the parameters                         gossip        one's own step
===========  =====================================  ============  ========================

A rule is one value from the command line to the record: ``diloco:every=50``.  How it works is in
`dgc_topo.training.averaging`; nothing here needs torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    field_validator,
)

from dgc_topo.schedule import Goal
from dgc_topo.tables.explain import explain
from dgc_topo.tables.keys import EachOnce
from dgc_topo.tables.table import Table
from dgc_topo.topology import Topology
from dgc_topo.topology_options import OptionValue, joined_text, number_or_text, split_text

ALL_REDUCE: frozenset[Goal] = frozenset({"all-reduce"})
GOSSIP: frozenset[Goal] = frozenset({"doubly-stochastic"})

_MOST_STEPS = 1_000_000

Every = Annotated[
    int, Field(ge=1, le=_MOST_STEPS, description="H: steps of one's own from exchange to exchange")
]
Share = Annotated[float, Field(ge=0, le=1)]


class Outer(NamedTuple):
    """The outer rule: an SGD whose gradient is the negative mean change.

    Attributes:
        learning_rate: 1 makes the mean change itself, if there is no momentum.
        momentum: From 0 to below 1.
        nesterov: Look ahead by one step of momentum.
    """

    learning_rate: float = 1.0
    momentum: float = 0.0
    nesterov: bool = False


class Averaging(Table):
    """An averaging rule with its options; `load_averaging` makes one.

    Its text form ``rule:key=value,key=value`` is ``str(averaging)``.

    Attributes:
        rule: Name of the rule.
        goals: Goals of the topologies that it takes.
        sends: Kind of what it averages.
        compresses: True if it takes densities below 1.
        is_local: True if each rank's own optimizer moves parameters of its own.
        fixed_schedule: True if it takes no topology that changes from one exchange to the next.
        vectors: Vectors of the model's size in what a rank sends.
        extra_elements: Numbers that travel beside them.
        every: H, the steps of one's own from one exchange to the next.
    """

    rule: ClassVar[str]
    goals: ClassVar[frozenset[Goal]]
    sends: ClassVar[Literal["gradients", "parameters", "changes"]]
    compresses: ClassVar[bool] = False
    is_local: ClassVar[bool] = True
    fixed_schedule: ClassVar[bool] = False
    vectors: ClassVar[int] = 1
    extra_elements: ClassVar[int] = 0

    every: Every = 1

    def __str__(self) -> str:
        """Return the text form, from which `load_averaging` makes an equal value."""
        return joined_text(self.rule, self.options)

    def __repr__(self) -> str:
        """Return ``Averaging('diloco:every=50')``."""
        return f"Averaging({str(self)!r})"

    @property
    def options(self) -> dict[str, OptionValue]:
        """Options that are not the rule's defaults, and H wherever it is not always 1."""
        return {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if getattr(self, name) != field.default or (name == "every" and field.default != 1)
        }

    @property
    def label(self) -> str:
        """Name and options in one short text, such as ``diloco(every=50)``."""
        inside = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.rule}({inside})" if inside else self.rule

    def is_due(self, iteration: int) -> bool:
        """Return True if there is an exchange in step *iteration*, counted from 0."""
        return (iteration + 1) % self.every == 0

    def refusal_of(self, topology: Topology) -> str | None:
        """Return why it cannot run over a topology, as "what, expected what"; None if it can."""
        if topology.goal not in self.goals:
            likely = _RULES_OVER.get(topology.goal)
            other = f", or {likely} over this one" if likely else ""
            return (
                f"{self.rule} over {topology.label}, which is {topology.goal}, expected a topology "
                f"that is {' or '.join(sorted(self.goals))}{other}"
            )
        if self.fixed_schedule and topology.varies:
            return (
                f"{self.rule} over {topology.label}, which changes from one exchange to the next, "
                "expected one that stays"
            )
        return None


#: What to name where a rule does not fit a topology of a goal.
_RULES_OVER: Mapping[Goal, str] = {"all-reduce": "local-sgd", "doubly-stochastic": "d-psgd"}


class Gradients(Averaging):
    """The mean of the gradients in every step: data parallel training, dense or with DGC."""

    rule = "gradients"
    goals = ALL_REDUCE
    sends = "gradients"
    compresses = True
    is_local = False

    @field_validator("every")
    @classmethod
    def _is_every_step(cls, every: int) -> int:
        if every != 1:
            raise ValueError(
                f"{every} with gradients, which are averaged in every step, expected 1, or "
                f"local-sgd:every={every}"
            )
        return every


class Changes(Averaging):
    """Base of rules that average how each rank's own optimizer changed the parameters.

    Attributes:
        outer: What the mean change does.
        ahead: Share of its unsent changes that a rank already works with.
    """

    goals = ALL_REDUCE
    sends = "changes"
    compresses = True

    @property
    def outer(self) -> Outer:
        """The outer rule."""
        return Outer()

    @property
    def ahead(self) -> float:
        """Share of its unsent changes that a rank already works with."""
        return 0.0


class LookingAhead(Changes):
    """Base of rules whose ranks may work with what they have not sent."""

    look_ahead: Share = Field(
        default=0.0, description="share of its unsent changes that a rank already works with"
    )

    @property
    def ahead(self) -> float:
        """See `Changes.ahead`."""
        return self.look_ahead


class Updates(LookingAhead):
    """The mean of the ranks' own steps, compressed with a residual: for AdamW and the like."""

    rule = "updates"


class LocalSGD(Changes):
    """Local SGD (Stich, ICLR 2019): the mean of the parameters after H steps of one's own."""

    rule = "local-sgd"
    every: Every = 10


class DiLoCo(Changes):
    """DiLoCo (Douillard et al. 2023): an outer Nesterov step by the mean change of H steps."""

    rule = "diloco"
    every: Every = 50
    outer_learning_rate: float = Field(default=0.7, gt=0)
    outer_momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = Field(default=True, description="of the outer momentum, if there is any")

    @property
    def outer(self) -> Outer:
        """See `Changes.outer`."""
        nesterov = self.nesterov and self.outer_momentum > 0
        return Outer(self.outer_learning_rate, self.outer_momentum, nesterov)


class SparseLoCo(LookingAhead):
    """SparseLoCo (Sarfi et al. 2025): what is not sent of H steps' change waits in a residual."""

    rule = "sparse-loco"
    every: Every = 30
    outer_learning_rate: float = Field(default=1.0, gt=0)
    outer_momentum: float = Field(default=0.0, ge=0, lt=1)

    @property
    def outer(self) -> Outer:
        """See `Changes.outer`."""
        return Outer(self.outer_learning_rate, self.outer_momentum)


class DPSGD(Averaging):
    """D-PSGD (Lian et al., NeurIPS 2017): a mixture of neighbours' parameters, and one's own step.

    ``x_i <- sum_j W[i, j] x_j - learning rate * update_i``, both at the parameters before.
    """

    rule = "d-psgd"
    goals = GOSSIP
    sends = "parameters"


_RULES: dict[str, type[Averaging]] = {
    each.rule: each for each in (Gradients, Updates, LocalSGD, DiLoCo, SparseLoCo, DPSGD)
}


def known_averagings() -> tuple[str, ...]:
    """Return the names of all averaging rules.

    Example:
        >>> "diloco" in dt.known_averagings()
        True
    """
    return tuple(_RULES)


def load_averaging(source: str | Averaging, /, **options: OptionValue) -> Averaging:
    """Return an averaging rule by its name or its text form.

    Args:
        source: ``"diloco"``, ``"diloco:every=50"``, or a rule, which is returned as it is.
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
        return _made(source.rule, {**source.options, **options}) if options else source
    if not isinstance(source, str):
        raise ValueError(f"averaging {source!r}: expected a rule's name or text form")  # noqa: TRY004
    name, found = split_text(source, what="averaging")
    plain = {
        key: number_or_text(value) if isinstance(value, str) else value
        for key, value in found.items()
    }
    return _made(name, {**plain, **options})


def read_averaging(value: object) -> Averaging:
    """Return the rule that a file or a message holds: a text, a table, or the value itself."""
    if isinstance(value, dict):
        table = dict(value)
        name = table.pop("rule", None)
        if not isinstance(name, str):
            missing = f"rule: missing, expected one of {', '.join(_RULES)}"
            raise ValueError(missing)  # noqa: TRY004  # pydantic tells it with its key
        return _made(name, table)
    return load_averaging(value)  # type: ignore[arg-type]  # which refuses what is none


def table_of(averaging: Averaging | None) -> dict[str, Any] | None:
    """Return the table that files and messages hold instead of a rule."""
    return None if averaging is None else {"rule": averaging.rule, **averaging.options}


def _made(name: str, options: Mapping[str, object]) -> Averaging:
    if name not in _RULES:
        close = difflib.get_close_matches(name, _RULES, n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"averaging {name!r}: expected one of {', '.join(_RULES)}{hint}")
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
