"""All ranks of a training in one process, driven step by step as the training loop drives them."""

from collections.abc import Sequence
from typing import Any, Self

from torch import nn

from dgc_topo.averaging import load_averaging
from dgc_topo.compression.config import DGCConfig
from dgc_topo.runtime import run_in_process
from dgc_topo.topology import Topology, load_topology
from dgc_topo.training.averaging import LocalMove, Setup, local_averager


class Driver:
    """All ranks of a training, in this process, step by step as the training loop drives them.

    Args:
        averaging: The rule's text form.
        topology: Over which they average.
        parameters: Of each rank, by name.
        local: The optimizer of each.
        density: Fraction that is sent.
        seed: Of what is drawn at random.
        weights: By which the ranks count; all alike by default.
        settings: Those of `DGCConfig`.
    """

    def __init__(
        self,
        averaging: str,
        topology: str | Topology,
        parameters: Sequence[dict[str, nn.Parameter]],
        local: Sequence[LocalMove],
        *,
        density: float = 1.0,
        seed: int = 1,
        weights: Sequence[int] = (),
        **settings: Any,
    ) -> None:
        self.rule, self.topology = load_averaging(averaging), load_topology(topology)
        assert self.rule.refusal_of(self.topology) is None
        self.num_ranks, self.density, self.seed = len(parameters), density, seed
        self.workers = self.topology.schedule(self.num_ranks).contributors.tolist()
        self.iteration = 0
        self.meet_over(self.topology, self.num_ranks, weights)
        counts = list(weights) or [1] * self.num_ranks
        config = DGCConfig(density=density, **settings)
        self.averagers: list[Any] = [
            local_averager(
                self.rule,
                own,
                moves,
                Setup(
                    num_workers=len(self.workers),
                    config=config,
                    trains=place in self.workers,
                    place=place,
                    weight=counts[place] * len(counts) / sum(counts),
                    goal=self.topology.goal,
                ),
            )
            for place, (own, moves) in enumerate(zip(parameters, local, strict=True))
        ]

    def meet_over(self, topology: Topology, num_ranks: int, weights: Sequence[int] = ()) -> None:
        """Go on over a topology, perhaps with fewer ranks."""
        self.topology, self.num_ranks = topology, num_ranks
        self.attendance = self.rule.attendance(topology, num_ranks, self.seed, weights)
        self.arranged = self.attendance.arranged(topology)

    def compute(self, rank: int) -> None:
        """Leave a rank's gradient in its parameters."""
        raise NotImplementedError

    def step(self) -> None:
        """Make one step of all ranks."""
        for rank, averager in enumerate(self.averagers):
            with averager.turn():
                self.compute(rank)
                averager.prepare()
            if averager.moves_first:
                averager.move()
        if self.rule.is_due(self.iteration):
            self.exchange(self.iteration // self.rule.every)
        for averager in self.averagers:
            if not averager.moves_first:
                averager.move()
        self.iteration += 1

    def exchange(self, number: int) -> None:
        """Make one exchange of those that take part."""
        here = self.attendance.of(number).tolist()
        for rank in here:
            self.averagers[rank].attend(number, float(self.attendance.renormalised(number)))
        sent = [
            averager.outgoing(self.density) if rank in here else []
            for rank, averager in enumerate(self.averagers)
        ]
        if len(self.attendance.behind(number)) and self.averagers[0].alike():
            alike = [averager.catch_up() for averager in self.averagers]
            schedule = self.attendance.catching_up().schedule(self.num_ranks, iteration=number)
            run_in_process(schedule, alike)
            for rank in self.attendance.behind(number).tolist():
                self.averagers[rank].caught_up(alike[rank])
        schedule = self.arranged.schedule(self.num_ranks, iteration=number, seed=self.seed)
        for part in range(max(map(len, sent))):
            run_in_process(schedule, [own[part] if own else None for own in sent])
        for averager, payloads in zip(self.averagers, sent, strict=True):
            if payloads:
                averager.incoming(payloads)

    def train(self, steps: int) -> Self:
        """Make steps."""
        for _ in range(steps):
            self.step()
        return self
