"""The `Advice` on how to train a model on a network: ways, the fastest first, and a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from dgc_topo.experiments.advice.powersgd import ReferenceWay
from dgc_topo.experiments.advice.verdict import best_dense, choice_of, verdict_of
from dgc_topo.experiments.advice.ways import TrainingWay, best_by_form
from dgc_topo.simulation import Workload
from dgc_topo.simulation.training.timeline import Codec
from dgc_topo.text import html_table
from dgc_topo.units import bytes_text, seconds_text, three_digits, times_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, repr=False)
class Better:
    """The fastest dense way over a better network, for comparison.

    Attributes:
        network: Name of the fabric.
        way: The way.
    """

    network: str
    way: TrainingWay


@dataclass(frozen=True, slots=True, repr=False)
class Advice:
    """Ways to train, the fastest first, and what they come to.

    Attributes:
        workload: Work of one worker.
        network: Name of the network.
        num_hosts: Number of hosts.
        gpus_per_host: Ranks on each.
        ways: All ways that were considered, the fastest first.
        references: Ways that others offer, with their bytes; empty if shapes are not known.
        better: Dense training over faster networks; empty if the network is no fabric.
        break_even_bytes_per_s: Bandwidth of a host's port below which compressing gains a tenth;
            None if the network has no one bandwidth, or compressing always or never does.
        codec: Costs of compressing.
        assumptions: What the numbers rest on, a sentence each.
    """

    workload: Workload
    network: str
    num_hosts: int
    gpus_per_host: int
    ways: tuple[TrainingWay, ...]
    references: tuple[ReferenceWay, ...]
    better: tuple[Better, ...]
    break_even_bytes_per_s: float | None
    codec: Codec
    assumptions: tuple[str, ...]

    @property
    def choice(self) -> TrainingWay:
        """Way that the verdict advises.

        It is dense unless compressing gains a tenth.  Of compressed ways that are about as fast
        (3 %) it is the densest, as that costs least accuracy.  Its sum is exact unless pruning
        gains a twentieth.
        """
        return choice_of(self.ways)

    @property
    def best(self) -> TrainingWay:
        """Fastest way, whatever it costs in accuracy."""
        return self.ways[0]

    @property
    def best_dense(self) -> TrainingWay:
        """Fastest way that sends every element."""
        return best_dense(self.ways)

    @property
    def verdict(self) -> str:
        """Advice in plain words, a few sentences."""
        return " ".join(self.sentences)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences of the verdict; the first says what to do."""
        return verdict_of(
            self.ways,
            network=self.network,
            better=[(each.network, each.way) for each in self.better],
            break_even_bytes_per_s=self.break_even_bytes_per_s,
        )

    @property
    def leading(self) -> tuple[TrainingWay, ...]:
        """Fastest way of each form, the fastest first."""
        return tuple(sorted(best_by_form(self.ways).values(), key=lambda way: way.step_time_s))

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain numbers and texts."""
        return {
            "model": self.workload.name,
            "parameters": self.workload.num_elements,
            "compute_s": self.workload.compute_s,
            "update_s": self.workload.update_s,
            "network": self.network,
            "hosts": self.num_hosts,
            "gpus_per_host": self.gpus_per_host,
            "verdict": self.verdict,
            "choice": self.choice.as_dict(),
            "ways": [way.as_dict() for way in self.ways],
            "references": [each.as_dict() for each in self.references],
            "better_networks": [
                {"network": each.network, **each.way.as_dict()} for each in self.better
            ],
            "break_even_bytes_per_s": self.break_even_bytes_per_s,
            "assumptions": list(self.assumptions),
        }

    def to_frame(self) -> pd.DataFrame:
        """Return one row per way, the fastest first."""
        import pandas as pd  # noqa: PLC0415 - takes longer to import than a simulation takes

        return pd.DataFrame([way.as_dict() for way in self.ways])

    def __repr__(self) -> str:
        ranks = f"{self.num_hosts} hosts"
        if self.gpus_per_host > 1:
            ranks += f" of {self.gpus_per_host} GPUs"
        choice = self.choice
        return (
            f"Advice({self.workload.name}, {ranks} on {self.network}: {choice.label}, "
            f"{times_text(choice.speedup)} of {choice.num_workers})"
        )

    def _repr_html_(self) -> str:
        rows = [*map(row_of, self.leading), *map(reference_row_of, self.references)]
        first, *others = map(escape, self.sentences)
        items = "".join(f"<li>{sentence}</li>" for sentence in others)
        return f"<p><strong>{first}</strong></p><ul>{items}</ul>" + html_table(HEAD, rows)


#: Headings of `row_of`.
HEAD = ("way", "step", "90 % interval", "speed-up", "90 % interval", "bound by")


def row_of(way: TrainingWay) -> list[str]:
    """Return a way's cells: label, step, interval, speed-up, interval, bound."""
    return [
        way.label,
        seconds_text(way.step_time_s),
        f"{seconds_text(way.low_s)} to {seconds_text(way.high_s)}",
        f"{times_text(way.speedup)} of {way.num_workers}",
        f"{three_digits(way.speedup_low)} to {three_digits(way.speedup_high)}",
        way.bound_text,
    ]


def reference_row_of(reference: ReferenceWay) -> list[str]:
    """Return the cells of what is not predicted, only bounded."""
    return [
        reference.label,
        f"at least {seconds_text(reference.least_s)}",
        "",
        f"at most {times_text(reference.most_speedup)}",
        "",
        f"sends {bytes_text(reference.own_bytes)}",
    ]
