"""Rules of the user's own at work: what `dgc_topo.AveragingRule` says, on one rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dgc_topo.averaging import Averaging, AveragingRule, place_of
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.resharding import KEPT
from dgc_topo.compression.updates import UpdateCompressor
from dgc_topo.payload import SUM, DensePayload, Payload
from dgc_topo.python_files import CodeError, explained
from dgc_topo.training.averaging.base import (
    LocalAverager,
    LocalMove,
    Parameters,
    Setup,
    mean_of,
    update_compressor,
)

_NAME = "own rule"  # of its state in snapshots, where it has no compressor


class OwnRuleAverager(LocalAverager):
    """One rank's side of a rule in a file of the user's own.

    Args:
        parameters: See `LocalAverager`; equal on all ranks now.
        local: See `LocalAverager`.
        averaging: The rule's options.
        setup: See `LocalAverager`.

    Attributes:
        rule: The user's object.

    Raises:
        CodeError: if the user's code fails, with its file and line.
    """

    def __init__(
        self, parameters: Parameters, local: LocalMove, averaging: Averaging, setup: Setup
    ) -> None:
        super().__init__(parameters, local, averaging, setup)
        assert averaging.code is not None
        self._what, kind = f"averaging {averaging.label}", averaging.code.kind
        self._vectors, self._extra = averaging.vectors, averaging.extra_elements
        self._compressor: UpdateCompressor | None = None
        if averaging.compresses:
            self._compressor = update_compressor(self.parameters, setup)
        with self._calling("__init__"):
            self.rule: AveragingRule = kind()
        for name in type(averaging).model_fields:
            setattr(self.rule, name, getattr(averaging, name))
        self.rule.parameters, self.rule.num_workers = self.parameters, setup.num_workers
        self.rule.state = {}
        with self._calling("start"):
            self.rule.start()
        missing = [each for each in kind.alike if not _is_section(self.rule.state.get(each))]
        if missing:
            raise CodeError(
                f"{self._place('start')}: alike = {kind.alike!r}, expected state[{missing[0]!r}] "
                "to be a dictionary of tensors by name after start()"
            )

    def outgoing(self, density: float) -> list[Payload]:
        """See `Averager.outgoing`: what `send` returns."""
        if not self.setup.trains:
            return self.neutral(density)
        sent = self._sent()
        if self._compressor is not None:
            return [self._compressor.compress(self._weighed(sent), density=density)]
        return [self._dense(sent, self.setup.weight)]

    def neutral(self, density: float) -> list[Payload]:
        """See `Averager.neutral`."""
        if self._compressor is not None:
            self._layout = FlatLayout.of(self.parameters)
            return [self._compressor.neutral(density=density)]
        return [self._dense(self._sent(), 0.0)]

    def incoming(self, payloads: Sequence[Payload]) -> None:
        """See `Averager.incoming`: what `receive` does with it."""
        (payload,) = payloads
        if self._compressor is not None:
            mean = self._compressor.finish(payload)
        else:
            assert isinstance(payload, DensePayload)
            mean = self._layout.views(payload.buffer)
        if self.renormalise != 1 and self.setup.goal == "all-reduce":
            torch._foreach_mul_(list(mean.values()), self.renormalise)
        with self._calling("receive"):
            self.rule.receive(mean)

    def alike(self) -> dict[str, Tensor]:
        """See `Averager.alike`: what the rule says that all ranks hold alike."""
        kinds = type(self.rule).alike
        return {
            f"{kind} of {name}": tensor
            for kind in kinds
            for name, tensor in self.rule.state[kind].items()
        }

    def missed(self) -> None:
        """See `Averager.missed`: changes wait in the residual."""
        if self._compressor is not None:
            self._compressor.give_back()

    def renew(self) -> None:
        """See `Averager.renew`."""
        with self._calling("renew"):
            self.rule.renew()

    @torch.no_grad()
    def shared(self) -> dict[str, Tensor]:
        """See `Averager.shared`: what `evaluated` returns."""
        with self._calling("evaluated"):
            found = self.rule.evaluated()
        self._check_tensors("evaluated", found, self.parameters)
        return {
            name: found[name].detach().to(p.dtype, copy=True) for name, p in self.parameters.items()
        }

    def describe(self) -> str:
        """See `Averager.describe`."""
        return super().describe() if self._compressor is None else self._compressor.describe()

    def state_dict(self) -> dict[str, Any]:
        """See `Averager.state_dict`; the residual beside what the rule keeps."""
        own: dict[str, Any] = {"compressor": _NAME}
        if self._compressor is not None:
            own = self._compressor.state_dict()
        for name, value in self.rule.state.items():
            if not _lasts(value):
                raise CodeError(
                    f"{self._what}: {place_of(type(self.rule))}: state[{name!r}] is "
                    f"{type(value).__name__}, expected a number, or a dictionary of tensors by name"
                )
            kept = {key: t.clone() for key, t in value.items()} if _is_section(value) else value
            own[f"{KEPT}{name}"] = kept
        return own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Averager.load_state_dict`."""
        if self._compressor is not None:
            self._compressor.load_state_dict(state)
        found = {key.removeprefix(KEPT): v for key, v in state.items() if key.startswith(KEPT)}
        for name, value in found.items():
            self._keep(name, value)

    @torch.no_grad()
    def resume_from(
        self, parameters: Sequence[Mapping[str, Tensor]], states: Sequence[Mapping[str, Any]]
    ) -> None:
        """See `Averager.resume_from`: the means of the parameters and of what the rule keeps."""
        super().resume_from(parameters, states)
        for key, value in states[0].items():
            if key.startswith(KEPT) and _is_section(value):
                self._keep(key.removeprefix(KEPT), mean_of([state[key] for state in states]))

    def _keep(self, name: str, value: Any) -> None:
        """Put a part of the state where it was, in the same tensors if there are any."""
        held: Any = self.rule.state.get(name)
        if not _is_section(value):
            self.rule.state[name] = value
        elif _is_section(held) and held.keys() == value.keys():
            for key, tensor in value.items():
                held[key].copy_(tensor)
        else:
            device = next(iter(self.parameters.values())).device
            self.rule.state[name] = {key: t.to(device, copy=True) for key, t in value.items()}

    def _sent(self) -> Mapping[str, Tensor]:
        """Return what the rule's `send` returns, checked."""
        with self._calling("send"):
            sent = self.rule.send()
        expected = None if self._compressor is None else self.parameters
        self._check_tensors("send", sent, expected)
        self._layout = FlatLayout.of(sent)
        size = sum(p.numel() for p in self.parameters.values())
        promised = self._vectors * size + self._extra
        if self._layout.length != promised:
            raise CodeError(
                f"{self._place('send')}: send() returned {self._layout.length:,} numbers, expected "
                f"{promised:,}: vectors = {self._vectors} times the model's {size:,}, and "
                f"extra_elements = {self._extra}"
            )
        return sent

    @torch.no_grad()
    def _dense(self, sent: Mapping[str, Tensor], weight: float) -> Payload:
        parts = [t.detach().reshape(-1).to(torch.float32) for t in sent.values()]
        flat, wire_dtype = torch.cat(parts), self.setup.config.coding.dense_dtype
        if self.setup.goal != "all-reduce":
            return DensePayload(flat, wire_dtype, goals=self.goals)
        flat.mul_(weight / self.setup.num_workers)
        return DensePayload(flat, wire_dtype, goals=SUM)

    def _weighed(self, sent: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weight = self.setup.weight
        return {
            name: t.detach() * weight if weight != 1 else t.detach() for name, t in sent.items()
        }

    def _check_tensors(
        self, method: str, found: Any, expected: Mapping[str, Tensor] | None
    ) -> None:
        """Refuse what is no tensors by name, or has other names or shapes than expected."""
        where = f"{self._place(method)}: {method}() returned"
        if not _is_section(found) or not found:
            raise CodeError(f"{where} {type(found).__name__}, expected tensors by name")
        if expected is None:
            return
        for name in (*expected, *found):
            own, other = found.get(name), expected.get(name)
            if own is None or other is None or own.shape != other.shape:
                has = "nothing" if own is None else f"shape {tuple(own.shape)}"
                needs = "no such name" if other is None else f"shape {tuple(other.shape)}"
                raise CodeError(f"{where} {has} for {name!r}, expected {needs}")

    def _place(self, method: str) -> str:
        """Return what the rule is called, and the file and line of one of its methods."""
        return f"{self._what}: {place_of(getattr(type(self.rule), method))}"

    @contextmanager
    def _calling(self, method: str) -> Iterator[None]:
        """Call a method of the user's, in a block without gradients, and explain its faults."""
        with torch.no_grad(), explained(self._what, f", in {method}()"):
            yield


def _is_section(value: object) -> Any:
    """Return True for a dictionary of tensors by name."""
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(each, Tensor) for key, each in value.items()
    )


def _lasts(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str) or _is_section(value)
