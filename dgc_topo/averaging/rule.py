"""The `Averaging`: a rule with its options, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from dgc_topo.schedule import Goal
from dgc_topo.tables.table import Table
from dgc_topo.topology import Topology
from dgc_topo.topology_options import OptionValue, joined_text

ALL_REDUCE: frozenset[Goal] = frozenset({"all-reduce"})
GOSSIP: frozenset[Goal] = frozenset({"doubly-stochastic"})
PUSH: frozenset[Goal] = frozenset({"column-stochastic", "doubly-stochastic"})

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
        if self.fixed_schedule and topology.changes:
            return (
                f"{self.rule} over {topology.label}, which changes from one exchange to the next, "
                "expected one that stays"
            )
        return None


#: Rule to propose for a topology of each goal.
_RULES_OVER: Mapping[Goal, str] = {
    "all-reduce": "local-sgd",
    "doubly-stochastic": "d-psgd",
    "column-stochastic": "push-sum",
}
