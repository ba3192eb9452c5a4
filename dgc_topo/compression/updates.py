"""Compressed updates: each rank's own optimizer moves its parameters, the ranks share what moved.

DGC compresses gradients, and its momentum correction is right for SGD.  AdamW divides by the root
of a second moment, and a few accumulated elements in a gradient of zeros spoil that moment.  Here
each rank's own optimizer sees its own whole gradient instead, and the *change* that it makes is
compressed.  One step on one of N ranks::

    update       p' = optimizer(p, g)          its own gradient, its own moments
    accumulate   r = r + (p' - p) / N
    select       the largest abs(r), per layer
    mask         where sent: r = 0
    sum          s = s + what all ranks sent   parameters that all ranks share, bit for bit
    look ahead   p = s + look_ahead * N * r    a rank sees its own work at once, that of others late

Without compression r is 0 and a step is one of local SGD with an averaging after it.  With
``look_ahead = 0`` all ranks work on the same parameters; the residual is then that of SparseLoCo
with one local step (Sarfi et al. 2025).  With more, each rank's gradient is taken nearer to where
its own updates lead: step-ahead error feedback (Xu, Huo, Huang, AAAI 2021).  The invariant, at
every step and element: sum of all values sent + sum of all residuals = sum over the ranks of all
updates, divided by N.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dgc_topo.compression.assembly import groups_of, step_of
from dgc_topo.compression.compressor import Sections, check_owner, position_of, restore, snapshot
from dgc_topo.compression.config import DGCConfig, SelectionName
from dgc_topo.compression.density import constant_density, geometric_warm_up
from dgc_topo.compression.gradients import Gradients, NonFiniteGradientError, whole_gradients
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.local_step import Sent
from dgc_topo.compression.parameters import (
    Parameters,
    check_parameters,
    count_workers,
    describe_dgc,
    named_parameters,
)
from dgc_topo.compression.summed import Payloads
from dgc_topo.payload import Entries, Payload
from dgc_topo.scalars import plain_float, plain_int
from dgc_topo.sizes import is_compressed, is_sparse
from dgc_topo.wire.coding import IndexChoice, WireDtype
from dgc_topo.wire.tensors import TORCH_DTYPES, to_wire

_STAGES = 8  #: of the warm-up


class UpdateCompressor:
    """One rank's compressor of what its own optimizer changed; state is float32, by parameter name.

    Tensors with more than one dimension are compressed into one sparse payload over their
    concatenation; the others (biases, norms) travel dense.

    One step, on every rank, with *shared* parameters that are equal on all of them::

        before = {name: p.clone() for name, p in model.named_parameters()}
        optimizer.step()                                   # on this rank's own gradient
        payload = compressor.compress({name: p - before[name] for name, p in ...})
        ...                                                # the schedule sums the payloads
        for name, change in compressor.finish(payload).items():
            shared[name] += change
            p = shared[name] + compressor.ahead()[name]

    Args:
        parameters: A module, tensors by name, or pairs such as ``model.named_parameters()``, all on
            one device.
        num_workers: N, the ranks that contribute; by default those of the process group.
        density: Fraction of each compressed tensor that is sent after the warm-up, such as 0.01 or
            "1%".
        warm_up_steps: Steps over which density falls to *density* in eight equal ratios; 0 for
            none.
        look_ahead: Share of its own residual that a rank adds to the shared parameters when it
            takes its gradient, from 0 to 1; the ranks' parameters differ by that between steps.
        selection: Way to find the largest elements, as in `DGCConfig`.
        wire_dtype: Type of the values in messages; rounding errors stay in the residual.
        index_encoding: Coding of a sparse message's indices, as in `DGCConfig`.

    Raises:
        ValueError: if the parameters do not fit together, *num_workers* is below 1, or missing
            without a process group, or a setting is out of range.

    Attributes:
        num_workers: N.
        look_ahead: As given.
        step: Steps compressed so far.
    """

    name = "updates"
    owns_momentum = False  #: the optimizer's momentum acts once, before the selection

    def __init__(  # noqa: PLR0913  # each has a name
        self,
        parameters: Parameters,
        *,
        num_workers: int | None = None,
        density: float | str = 0.01,
        warm_up_steps: int = 0,
        look_ahead: float = 0.0,
        selection: SelectionName = "reused",
        wire_dtype: WireDtype = "float32",
        index_encoding: IndexChoice = "auto",
    ) -> None:
        self.num_workers = count_workers(self.name, num_workers)
        self._parameters = named_parameters(self.name, parameters)
        self._device = check_parameters(self.name, self._parameters)
        config = DGCConfig(
            density=density,  # type: ignore[arg-type]  # takes text as well
            momentum=0.0,
            masking=False,
            selection=selection,
            warm_up="none",
            wire_dtype=wire_dtype,
            index_encoding=index_encoding,
        )
        self._coding = config.coding
        self._wire_dtype = TORCH_DTYPES[config.coding.dense_dtype]
        warm_up_steps = plain_int("updates: warm_up_steps", warm_up_steps)
        if warm_up_steps < 0:
            raise ValueError(f"updates: warm_up_steps {warm_up_steps}, expected at least 0")
        self.look_ahead = plain_float("updates: look_ahead", look_ahead)
        if not 0 <= self.look_ahead <= 1:
            raise ValueError(f"updates: look_ahead {look_ahead}, expected 0 to 1")
        self._schedule = (
            geometric_warm_up(config.density, warm_up_steps, _STAGES)
            if warm_up_steps
            else constant_density(config.density)
        )
        self.step = 0

        compressed = {n: p for n, p in self._parameters.items() if is_compressed(p.shape)}
        others = {n: p for n, p in self._parameters.items() if n not in compressed}
        self._layout, self._others = FlatLayout.of(compressed), FlatLayout.of(others)
        self._local_step = step_of(
            self.name, self._parameters, self._layout, config, num_workers=self.num_workers
        )
        self._accumulation = self._local_step.accumulation
        #: Residual of the tensors that travel dense: of rounding, and of what was given back.
        self._rest = torch.zeros(self._others.length, dtype=torch.float32, device=self._device)
        self._payloads = Payloads(
            groups_of(config, self._layout),
            self._others.length,
            self._device,
            config,
            self._layout.inner_bounds,
        )
        self._settled = {
            "updates' num_workers": self.num_workers,
            "updates' density": config.density,
            "updates' warm_up_steps": warm_up_steps,
            "updates' look_ahead": self.look_ahead,
            "updates' wire_dtype": wire_dtype,
        }
        self._sent: tuple[Sent | Tensor, Tensor] | None = None  # of the last step
        self._before: Entries | None = None  # residuals before what sums missed came to them

    def __repr__(self) -> str:
        total = self._layout.length + self._others.length
        return (
            f"UpdateCompressor({self._layout.length:,} of {total:,} elements compressed, "
            f"density={self._schedule.target:g}, num_workers={self.num_workers})"
        )

    @property
    def density(self) -> float:
        """Fraction of each compressed tensor that the next step sends."""
        return self._schedule.density_at(self.step)

    @torch.no_grad()
    def compress(self, updates: Gradients, *, density: float | None = None) -> Payload:
        """Accumulate what the optimizer changed and return the payload of this step.

        Args:
            updates: The parameters after the optimizer's step minus those before it, by name; None
                counts as zeros.  Not modified.
            density: Fraction to send in this step instead, the same on all ranks.  1 sends the
                whole residual: afterwards all ranks hold the same parameters.

        Returns:
            A `BundlePayload` of a `SparsePayload` over the compressed tensors and a `DensePayload`
            over the others; at density 1 one `DensePayload` over both.

        Raises:
            ValueError: if names, shapes or devices are not the parameters', or *density* is not
                above 0 and at most 1.
            NonFiniteGradientError: if an update holds NaN or infinity; nothing has changed then,
                and `neutral` is what this rank can send instead.
        """
        density = self.density if density is None else _checked_density(density)
        whole = whole_gradients(self.name, updates, self._parameters)
        scaled = {
            name: update.to(torch.float32) / self.num_workers for name, update in whole.items()
        }
        self._local_step.accumulate(scaled, density)
        sent = self._local_step.sent(density) if is_sparse(density) else self._take_all()
        rest = self._rest.add_(self._others.flatten(scaled, self._device))
        others = to_wire(rest, self._wire_dtype, self.num_workers).clone()
        rest.sub_(others)
        self._sent = sent, others.clone()  # a sum may be taken in the payload's own memory
        self.step += 1
        payload = (
            self._payloads.dense(torch.cat([sent, others]))
            if isinstance(sent, Tensor)
            else self._payloads.sparse(sent, others, density)
        )
        payload.made_with = self._settings(density)
        return payload

    def neutral(self, *, density: float | None = None) -> Payload:
        """Return a payload that adds nothing; it counts as this rank's step.

        Args:
            density: As in `compress`.
        """
        density = self.density if density is None else _checked_density(density)
        self._sent = None
        self.step += 1
        payload = self._payloads.neutral(density)
        payload.made_with = self._settings(density)
        return payload

    @torch.no_grad()
    def finish(self, payload: Payload) -> dict[str, Tensor]:
        """Return the change of the shared parameters: the mean over the ranks of what they sent.

        Every rank calls it: what it rounded away from partial sums goes to its residual.

        Args:
            payload: Sum of all ranks' payloads, as the schedule returned it.  Not modified.

        Returns:
            float32 tensors shaped like the parameters, in their order, to be *added* to the shared
            parameters; equal on all ranks, bit for bit.

        Raises:
            ValueError: if *payload* is not a sum of what `compress` returns.
            NonFiniteGradientError: if the sum holds NaN or infinity.  Every rank sees it, and every
                rank then calls `give_back` and leaves the shared parameters as they are.
        """
        compressed, others = self._payloads.parts(self.name, payload)
        if not all(bool(flat.isfinite().all()) for flat in (compressed, others)):
            raise NonFiniteGradientError(
                "updates: the sum over the ranks holds NaN or infinity, expected finite values; "
                "lower the learning rate"
            )
        self._keep_missed(payload)
        views = self._layout.views(compressed) | self._others.views(others)
        return {name: views[name] for name in self._parameters}

    @torch.no_grad()
    def give_back(self) -> None:
        """Return what this rank sent last to the residual, once, because no rank used the sum."""
        if self._before is not None:
            self._accumulation.put_back(self._before)
            self._before = None
        if self._sent is None:
            return
        sent, others = self._sent
        if isinstance(sent, Tensor):
            self._accumulation.residual.add_(sent)
        else:
            self._accumulation.give_back(sent.indices, sent.values)
        self._rest.add_(others)
        self._sent = None

    def _keep_missed(self, payload: Payload) -> None:
        """Add to the residual what the sum lacks because this rank rounded parts of it."""
        missed = self._payloads.learn_from(payload)
        self._before = None if missed is None else self._accumulation.take_in(missed)

    @torch.no_grad()
    def decay(self, factor: float) -> None:
        """Multiply what this rank has not sent yet by a factor from 0 to 1."""
        if factor != 1:
            self._accumulation.residual.mul_(factor)
            self._rest.mul_(factor)

    def residuals(self) -> dict[str, Tensor]:
        """Return what this rank has not sent yet, divided by N, by name, sharing memory."""
        views = self._layout.views(self._accumulation.residual) | self._others.views(self._rest)
        return {name: views[name] for name in self._parameters}

    @torch.no_grad()
    def ahead(self) -> dict[str, Tensor]:
        """Return ``look_ahead * N * residual``: what a rank adds to the shared parameters."""
        factor = self.look_ahead * self.num_workers
        return {name: residual * factor for name, residual in self.residuals().items()}

    def describe(self) -> str:
        """Return a table of the tensors that are compressed after the warm-up, and of the rest."""
        return describe_dgc(self._parameters, self._schedule.target, self._coding, self.name)

    def state_dict(self) -> dict[str, object]:
        """Return the step and copies of the residual by parameter name."""
        return {"compressor": self.name, "step": self.step, **snapshot(self._sections())}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a snapshot, bit for bit.

        Raises:
            ValueError: if it was taken by another compressor, or names or shapes differ; nothing
                is loaded then.
        """
        check_owner(self.name, state)
        step, _ = position_of(self.name, state)
        restore(self.name, state, self._sections())
        self._accumulation.forget_bounds()
        self.step, self._sent, self._before = step, None, None

    def _take_all(self) -> Tensor:
        """Return the whole residual as messages can hold it, in memory of its own."""
        taken = torch.empty_like(self._accumulation.residual)
        self._accumulation.send_all(taken, self._wire_dtype)
        return taken

    def _settings(self, density: float) -> dict[str, object]:
        """Return the settings that must be equal on every rank, beside the parameters' shapes."""
        return {**self._settled, "updates' density now": density}

    def _sections(self) -> Sections:
        return {"residual": self.residuals()}


def _checked_density(density: object) -> float:
    plain = plain_float("updates: density", density)
    if not 0 < plain <= 1:
        raise ValueError(f"updates: density {density}, expected above 0, at most 1")
    return plain
