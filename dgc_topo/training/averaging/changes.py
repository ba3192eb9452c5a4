"""Changes: what each rank's own optimizer did in H steps is averaged, compressed or not.

One round on one of N ranks, from parameters *s* that all ranks share bit for bit::

    start        p = s + look_ahead * N * r
    H steps      p' = the rank's own optimizer, on its own gradients
    accumulate   r = residual_decay * r + (p' - p) / N
    send         c = the largest abs(r), per layer; r = 0 there       density 1: everything
    sum          d = what all ranks sent
    outer step   s = s + outer(d)

Local SGD is density 1 and an outer step that is *d* itself; DiLoCo has an SGD with Nesterov
momentum on -d instead; SparseLoCo a density below 1, and perhaps a residual that decays.  With
H = 1 it is the compression of the steps of AdamW and the like (see `UpdateCompressor`).  Nothing is
lost, without decay: at every round and element, the sum of all values sent + the sum of all
residuals = the sum of all changes, divided by N.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dgc_topo.averaging import Changes
from dgc_topo.compression.compressor import restore, snapshot
from dgc_topo.payload import Payload
from dgc_topo.scalars import plain_bool, plain_int
from dgc_topo.training.averaging.base import (
    Averager,
    LocalAverager,
    LocalMove,
    Parameters,
    Setup,
    mean_of,
    update_compressor,
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
        super().__init__(parameters, local, averaging, setup)
        self.compressor = update_compressor(self.parameters, setup, averaging.ahead)
        self._anchor = {
            name: p.detach().to(wide_dtype(p), copy=True) for name, p in self.parameters.items()
        }
        self._outer, self._decay = OuterSGD(self._anchor, averaging.outer), averaging.decay
        self._has_moved, self._all_meet = False, not averaging.leaves_out
        self._leads = True

    def share(self, first: Averager) -> None:
        """See `Averager.share`: anchor and outer momentum, which the first one moves for all."""
        if self._all_meet and isinstance(first, ChangeAverager):
            self._anchor, self._outer, self._leads = first._anchor, first._outer, False  # noqa: SLF001

    @torch.no_grad()
    def follow(self) -> None:
        """See `LocalAverager.follow`.

        It is a change like any other in the middle of a round, and where ranks are left out.
        """
        if self._has_moved or not self._all_meet:
            return
        start = self._start()
        found = self._others_than(start)
        if not found:
            return
        if self.compressor.look_ahead and not self._others_than(self._anchor):
            self._set(start)  # the shared parameters, as they were saved
            return
        for name, parameter in found.items():
            anchor = self._anchor[name]
            ahead = start[name] - anchor if start is not self._anchor else 0.0
            anchor.copy_(parameter.to(anchor.dtype) - ahead)
        self.was_set = True

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
        self.compressor.decay(self._decay)
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
        changes = self.compressor.finish(payload)
        if self.renormalise != 1:
            torch._foreach_mul_(list(changes.values()), self.renormalise)
        if self._leads:
            self._outer.step(self._anchor, changes)
        self._start_again()

    def missed(self) -> None:
        """See `Averager.missed`: the changes wait in the residual."""
        self.compressor.give_back()
        self._start_again()

    @property
    def agrees(self) -> bool:
        """See `Averager.agrees`: right after an exchange of all ranks."""
        return self._all_meet and not self._has_moved

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

    def common(self) -> Mapping[str, Tensor] | None:
        """See `Averager.common`: the anchor, unless some ranks were left out."""
        return self._anchor if self._all_meet else None

    def alike(self) -> dict[str, Tensor]:
        """See `Averager.alike`: the anchor and the outer momentum."""
        momentum = self._outer.momentum()
        return self._anchor | {f"momentum of {name}": momentum[name] for name in momentum}

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
            "last_exchange": self._last_exchange,
            "was_set": self.was_set,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Averager.load_state_dict`; sets the parameters if all ranks had just agreed."""
        own = {"anchor": self._anchor, "outer_momentum": self._outer.momentum()}
        has_moved = plain_bool("averaging state: has_moved", state.get("has_moved"))
        was_set = plain_bool("averaging state: was_set", state.get("was_set", False))
        last = state.get("last_exchange", -1)
        restore("averaging", state, own)
        self.compressor.load_state_dict(state)
        self._has_moved, self.was_set = has_moved, was_set
        self._last_exchange = plain_int("averaging state: last_exchange", last, least=-1)
        if not has_moved:
            self._set(self._start())

    @torch.no_grad()
    def resume_from(
        self, parameters: Sequence[Mapping[str, Tensor]], states: Sequence[Mapping[str, Any]]
    ) -> None:
        """See `Averager.resume_from`: every rank gets the mean change of the round so far.

        Ranks that were left out held an older anchor; the mean of all stays where it was.
        """
        ahead = self.compressor.look_ahead * len(states)
        changes = []
        for there, state in zip(parameters, states, strict=True):
            starts = {n: a + ahead * state["residual"][n] for n, a in state["anchor"].items()}
            changes.append({n: there[n].to(start.dtype) - start for n, start in starts.items()})
        self.go_on(*merged_round(states, changes))

    @torch.no_grad()
    def go_on(self, newest: Mapping[str, Any], change: Mapping[str, Tensor]) -> None:
        """Go on in the middle of a round that others have begun, once the state is loaded.

        Args:
            newest: Anchor and outer momentum, as in a state.
            change: Of the parameters since the round began, by name.
        """
        own = {"anchor": self._anchor, "outer_momentum": self._outer.momentum()}
        restore("averaging", newest, own)
        begin = self._start()
        if self._has_moved:
            begin = {name: start + change[name].to(start.device) for name, start in begin.items()}
        self._set(begin)

    @torch.no_grad()
    def round_change(self) -> dict[str, Tensor]:
        """Return the change of the parameters in the round so far; empty if there is none."""
        return self._changes() if self._has_moved and self.setup.trains else {}

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


def merged_round(
    states: Sequence[Mapping[str, Any]], changes: Sequence[Mapping[str, Tensor]]
) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """Return the state with the newest anchor, and the mean change of all ranks from there.

    A rank that was left out of exchanges holds an older anchor, from which it counts its changes.

    Args:
        states: Of all ranks that train.
        changes: Those of each since its own anchor, by name.
    """
    newest = max(states, key=lambda state: int(state.get("last_exchange", -1)))
    moved = [
        {name: own[name] + (state["anchor"][name] - newest["anchor"][name]) for name in own}
        for state, own in zip(states, changes, strict=True)
    ]
    return newest, mean_of(moved)
