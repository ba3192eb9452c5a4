"""Changes: what each rank's own optimizer did in H steps is averaged, compressed or not.

One round on one of N ranks, from parameters *s* that all ranks share bit for bit::

    start        p = s + look_ahead * N * r
    H steps      p' = the rank's own optimizer, on its own gradients
    accumulate   r = r + (p' - p) / N
    send         c = the largest abs(r), per layer; r = 0 there       density 1: everything
    sum          d = what all ranks sent
    outer step   s = s + outer(d)

Local SGD is density 1 and an outer step that is *d* itself; DiLoCo has an SGD with Nesterov
momentum on -d instead; SparseLoCo a density below 1.  With H = 1 it is the compression of the steps
of AdamW and the like (see `UpdateCompressor`).  Nothing is lost: at every round and element, the
sum of all values sent + the sum of all residuals = the sum of all changes, divided by N.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dgc_topo.averaging import Changes
from dgc_topo.compression.compressor import restore, snapshot
from dgc_topo.compression.updates import UpdateCompressor
from dgc_topo.payload import Payload
from dgc_topo.scalars import plain_bool
from dgc_topo.training.averaging.base import (
    LocalAverager,
    LocalMove,
    Parameters,
    Setup,
    mean_of,
)
from dgc_topo.training.averaging.outer import OuterSGD


class ChangeAverager(LocalAverager):
    """A rank's side of the rules that average changes.

    Args:
        parameters: See `LocalAverager`; equal on all ranks now.
        local: See `LocalAverager`.
        averaging: The rule's options.
        setup: See `LocalAverager`.

    Attributes:
        compressor: Compresses the changes, and keeps what was not sent.
    """

    def __init__(
        self, parameters: Parameters, local: LocalMove, averaging: Changes, setup: Setup
    ) -> None:
        super().__init__(parameters, local, setup)
        config = setup.config
        self.compressor = UpdateCompressor(
            self.parameters,
            num_workers=setup.num_workers,
            density=config.density,
            selection=config.selection,
            wire_dtype=config.wire_dtype,
            index_encoding=config.index_encoding,
            look_ahead=averaging.ahead,
        )
        self._anchor = {
            name: p.detach().to(wide_dtype(p), copy=True) for name, p in self.parameters.items()
        }
        self._outer = OuterSGD(self._anchor, averaging.outer)
        self._has_moved = False

    def move(self) -> None:
        """See `Averager.move`."""
        super().move()
        self._has_moved = True

    def skip(self) -> None:
        """See `Averager.skip`; others may have moved."""
        self._has_moved = True

    @torch.no_grad()
    def outgoing(self, density: float) -> list[Payload]:
        """See `Averager.outgoing`: what is sent of the changes since the last exchange."""
        if not self.setup.trains:
            return self.neutral(density)
        changes = self._changes()
        if self.setup.weight != 1:
            changes = {name: change * self.setup.weight for name, change in changes.items()}
        return [self.compressor.compress(changes, density=density)]

    def neutral(self, density: float) -> list[Payload]:
        """See `Averager.neutral`."""
        return [self.compressor.neutral(density=density)]

    @torch.no_grad()
    def incoming(self, payloads: Sequence[Payload]) -> None:
        """See `Averager.incoming`: the outer step, and a new start from there.

        Raises:
            NonFiniteGradientError: if the sum holds NaN or infinity; nothing has changed then.
        """
        (payload,) = payloads
        self._outer.step(self._anchor, self.compressor.finish(payload))
        self._start_again()

    def missed(self) -> None:
        """See `Averager.missed`: the changes wait in the residual."""
        self.compressor.give_back()
        self._start_again()

    @property
    def agrees(self) -> bool:
        """See `Averager.agrees`: right after an exchange."""
        return not self._has_moved

    @torch.no_grad()
    def shared(self) -> dict[str, Tensor]:
        """See `Averager.shared`: the anchor, and the changes since the last exchange."""
        changes = self._changes() if self._has_moved else {}
        return {
            name: (anchor + changes[name] if changes else anchor).to(
                self.parameters[name].dtype, copy=True
            )
            for name, anchor in self._anchor.items()
        }

    def common(self) -> dict[str, Tensor]:
        """See `Averager.common`: the anchor."""
        return self._anchor

    def describe(self) -> str:
        """See `Averager.describe`."""
        return self.compressor.describe()

    def state_dict(self) -> dict[str, Any]:
        """See `Averager.state_dict`."""
        own = {"anchor": self._anchor, "outer_momentum": self._outer.momentum()}
        return {
            **self.compressor.state_dict(),
            **snapshot(own),
            "has_moved": self._has_moved,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Averager.load_state_dict`; sets the parameters if all ranks had just agreed."""
        own = {"anchor": self._anchor, "outer_momentum": self._outer.momentum()}
        has_moved = plain_bool("averaging state: has_moved", state.get("has_moved"))
        restore("averaging", state, own)
        self.compressor.load_state_dict(state)
        self._has_moved = has_moved
        if not has_moved:
            self._set(self._start())

    @torch.no_grad()
    def resume_from(
        self, parameters: Sequence[Mapping[str, Tensor]], states: Sequence[Mapping[str, Any]]
    ) -> None:
        """See `Averager.resume_from`: every rank gets the mean change of the round so far."""
        ahead = self.compressor.look_ahead * len(states)
        changes = []
        for own, state in zip(parameters, states, strict=True):
            residual = state["residual"]
            starts = {name: state["anchor"][name] + ahead * residual[name] for name in own}
            changes.append({name: own[name].to(starts[name].dtype) - starts[name] for name in own})
        mean, start = mean_of(changes), self._start()
        if self._has_moved:
            self._set({name: start[name] + mean[name].to(start[name].device) for name in start})
        else:
            self._set(start)

    def _changes(self) -> dict[str, Tensor]:
        """Return how the rank's own optimizer changed the parameters in this round."""
        start = self._start()
        return {
            # The start is counted as the parameter's type had rounded it.
            name: (p.detach().to(wide_dtype(p)) - start[name].to(p.dtype)).to(torch.float32)
            for name, p in self.parameters.items()
        }

    def _start(self) -> Mapping[str, Tensor]:
        """Return the parameters at which the round began."""
        if not self.compressor.look_ahead:
            return self._anchor
        ahead = self.compressor.ahead()
        return {name: anchor + ahead[name] for name, anchor in self._anchor.items()}

    def _start_again(self) -> None:
        self._set(self._start())
        self._has_moved = False


def wide_dtype(parameter: Tensor) -> torch.dtype:
    """Return a type of at least 32 bits that holds every value of a parameter."""
    return torch.promote_types(parameter.dtype, torch.float32)
