"""The `Loss`: which rank was lost, where in its training it was, and how that was seen."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

#: The process has ended; it is stopped; nothing is heard of its machine; it said why it fails.
Fate = Literal["gone", "frozen", "silent", "failed"]

_MOST_TEXT = 300  # characters of a text from a peer


@dataclass(frozen=True, slots=True)
class Position:
    """Position of a rank in its work.

    Attributes:
        step: Number of the training step, from 0; None outside of training.
        phase: Present activity, such as ``computing gradients``; empty if it said nothing.
    """

    step: int | None = None
    phase: str = ""

    def __str__(self) -> str:
        step = "" if self.step is None else f" in training step {self.step}"
        between = "," if step and self.phase else ""
        return step + (f"{between} while {self.phase}" if self.phase else "")

    @classmethod
    def from_json(cls, value: Any) -> Position:
        """Return the place that a peer told; raise a ValueError for what is none."""
        match value:
            case {"step": int() | None as step, "phase": str(phase)}:
                return cls(step, phase[:_MOST_TEXT])
        raise ValueError(f"place: {str(value)[:_MOST_TEXT]}, expected a step and a phase")


@dataclass(frozen=True, slots=True)
class Loss:
    """A rank that cannot go on.

    Attributes:
        rank: Its number.
        place: Last known position.
        fate: Kind of the loss.
        detail: Cause, in words.
    """

    rank: int
    place: Position
    fate: Fate
    detail: str

    def __str__(self) -> str:
        what = {
            "gone": "was lost",
            "frozen": "is frozen",
            "silent": "is silent",
            "failed": "failed",
        }[self.fate]
        return f"rank {self.rank} {what}{self.place} ({self.detail})"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Loss:
        """Return the loss that a peer told; raise a ValueError for what is none."""
        match value:
            case {
                "rank": int(rank),
                "place": place,
                "fate": "gone" | "frozen" | "silent" | "failed" as fate,
                "detail": str(detail),
            }:
                return cls(rank, Position.from_json(place), fate, detail[:_MOST_TEXT])
        raise ValueError(f"loss: {str(value)[:_MOST_TEXT]}, expected rank, place, fate and detail")


@dataclass(frozen=True, slots=True)
class Ended:
    """A rank that has taken its leave of the others.

    Attributes:
        rank: Its number.
        place: Last known position.
    """

    rank: int
    place: Position

    def __str__(self) -> str:
        return f"rank {self.rank} has ended{self.place}, without an error"

    @classmethod
    def from_json(cls, value: Any) -> Ended:
        """Return what `dataclasses.asdict` made of one; raise a ValueError for what is none."""
        match value:
            case {"rank": int(rank), "place": place}:
                return cls(rank, Position.from_json(place))
        raise ValueError(f"end: {str(value)[:_MOST_TEXT]}, expected rank and place")
