"""The `Averaging`: a rule with its options, as one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from dgc_topo.averaging.absences import absences_in
from dgc_topo.averaging.attendance import Attendance
from dgc_topo.schedule import Goal
from dgc_topo.tables.table import Table
from dgc_topo.topology import Topology
from dgc_topo.topology_options import OptionValue, joined_text

ALL_REDUCE: frozenset[Goal] = frozenset({"all-reduce"})
GOSSIP: frozenset[Goal] = frozenset({"doubly-stochastic"})
PUSH: frozenset[Goal] = frozenset({"column-stochastic", "doubly-stochastic"})

_MOST_STEPS = 1_000_000
_HALF = 0.5  #: of the ranks: more of them overlap with those of the exchange before

Every = Annotated[
    int, Field(ge=1, le=_MOST_STEPS, description="H: steps of one's own from exchange to exchange")
]
Share = Annotated[float, Field(ge=0, le=1)]
Participation = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="share of the ranks, drawn anew, that take part in an exchange; the others go "
        "on with their own steps, and their round gets longer",
    ),
]
LeftOut = Annotated[
    str,
    Field(
        description="ranks that are left out of exchanges: RANK@EXCHANGES, counted from 0, such as "
        "3@4, 3@4-9, 3@4- from then on or 3@0-/2 every second one, joined by +",
    ),
]


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


@dataclass(frozen=True, slots=True)
class RuleCode:
    """The user's own file that a rule is in.

    Attributes:
        name: Its path, as written.
        folder: Where a relative path begins.
        digest: Fingerprint of its text.
        kind: The class in it.
    """

    name: str
    folder: str
    digest: str
    kind: type[Any]


class Averaging(Table):
    """An averaging rule with its options; `load_averaging` makes one.

    Its text form ``rule:key=value,key=value`` is ``str(averaging)``.

    Attributes:
        rule: Name of the rule.
        goals: Goals of the topologies that it takes.
        sends: Kind of what it averages.
        compresses: True if it takes densities below 1.
        is_local: True if each rank's own optimizer moves parameters of its own.
        moves_first: True if what is sent holds the rank's own move already.
        fixed_schedule: True if it takes no topology that changes from one exchange to the next.
        weighs_itself: True if a rank weighs what it adds, where ranks count unequally, and the
            schedule of gossip does not.
        vectors: Vectors of the model's size in what a rank sends.
        extra_elements: Numbers that travel beside them.
        alike_vectors: Vectors of that size that all ranks hold alike.
        code: The user's own file that the rule is in; None for a rule that comes along.
        every: H, the steps of one's own from one exchange to the next.
        participation: Share of the ranks that take part in an exchange.
        left_out: Ranks that are left out of exchanges, see `absences_in`.
    """

    rule: ClassVar[str]
    goals: ClassVar[frozenset[Goal]]
    sends: ClassVar[Literal["gradients", "parameters", "changes"]]
    compresses: ClassVar[bool] = False
    is_local: ClassVar[bool] = True
    moves_first: ClassVar[bool] = True
    fixed_schedule: ClassVar[bool] = False
    weighs_itself: ClassVar[bool] = False
    vectors: ClassVar[int] = 1
    extra_elements: ClassVar[int] = 0
    alike_vectors: ClassVar[int] = 0
    code: ClassVar[RuleCode | None] = None

    every: Every = 1
    participation: Participation = 1.0
    left_out: LeftOut = ""

    @field_validator("left_out", mode="before")
    @classmethod
    def _names_ranks(cls, left_out: object) -> object:
        absences_in(str(left_out))
        return left_out

    @model_validator(mode="after")
    def _leaves_out_in_one_way(self) -> Self:
        if self.left_out and self.participation < 1:
            raise ValueError(
                f"left_out with participation {self.participation:g}, expected one of both"
            )
        return self

    @property
    def leaves_out(self) -> bool:
        """True if not all ranks take part in every exchange."""
        return self.participation < 1 or bool(self.left_out)

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

    def attendance(
        self, topology: Topology, world_size: int, seed: int, weights: Sequence[int] = ()
    ) -> Attendance:
        """Return who takes part in which exchange.

        Args:
            topology: Over which the ranks average.
            world_size: Number of ranks.
            seed: Seed of the draws; the same on every rank.
            weights: Whole numbers by which the ranks count; all alike by default.

        Raises:
            ValueError: if ranks are left out that are not there, or every rank at some time.
        """
        return Attendance(
            world_size,
            self.participation,
            topology.goal,
            seed,
            tuple(weights),
            weighs_gossip=not self.weighs_itself,
            absences=absences_in(self.left_out),
        )

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
        if self.leaves_out:
            return self._refusal_of_leaving_out(topology)
        return None

    def _refusal_of_leaving_out(self, topology: Topology) -> str | None:
        said = f"participation {self.participation:g}"
        if self.left_out:
            said = f"left_out {self.left_out}"
        where = f"{self.rule} with {said} over {topology.label}"
        if self.fixed_schedule or not self.is_local:
            why = (
                "what is known of a neighbour is a sum of all that it ever sent"
                if self.is_local
                else "all ranks share the parameters"
            )
            return f"{where}: {why}, expected all ranks in every exchange"
        if topology.goal == "all-reduce" and self.participation <= _HALF:
            return (
                f"{where}, expected above {_HALF}: those who were left out get what all hold alike "
                "from someone who was there the time before"
            )
        if topology.has_servers:
            return f"{where}, in which some ranks only serve, expected one in which all train"
        return None


#: Rule to propose for a topology of each goal.
_RULES_OVER: Mapping[Goal, str] = {
    "all-reduce": "local-sgd",
    "doubly-stochastic": "d-psgd",
    "column-stochastic": "push-sum",
}
