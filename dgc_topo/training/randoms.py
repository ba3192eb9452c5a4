"""Random numbers that the ranks of a training draw, each from a stream of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dgc_topo.seeds import Purpose, stream_seed


class Randoms:
    """Random numbers that one rank's model draws (dropout), another stream for every worker.

    In the block they are the rank's own; afterwards they are put away.
    """

    def __init__(self, seed: int, place: int, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        torch.manual_seed(stream_seed(seed, place, Purpose.MODEL))
        self.__exit__()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state, by device."""
        states = {"cpu": self._cpu_state}
        return states if self._cuda is None else states | {"cuda": self._cuda_state}

    def load_state_dict(self, states: Mapping[str, Tensor]) -> None:
        """Go on from a state; a device that was not there begins anew."""
        self._cpu_state = states["cpu"]
        if self._cuda is not None and "cuda" in states:
            self._cuda_state = states["cuda"]

    def __enter__(self) -> None:
        torch.set_rng_state(self._cpu_state)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda_state, self._cuda)

    def __exit__(self, *_: object) -> None:
        self._cpu_state = torch.get_rng_state()
        if self._cuda is not None:
            self._cuda_state = torch.cuda.get_rng_state(self._cuda)
