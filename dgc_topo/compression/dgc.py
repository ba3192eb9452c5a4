"""Deep Gradient Compression: send few elements, lose none, keep the momentum right.

Lin, Han, Mao, Wang, Dally: Deep Gradient Compression, ICLR 2018.  One step on one rank::

    clip         g *= min(1, clip_norm * N**-0.5 / norm(g))   over the whole gradient
    decay        g += weight_decay / N * w                     (mode "local")
    compensate   u = m*u + g
    accumulate   v = v + u
    select       the largest abs(v), per layer
    mask         where sent: v = 0, u = 0

Then the payloads are summed, and the parameters move by the sum.  The invariant, at every step and
element: sum of all values sent + sum of all residuals = sum of all values ever accumulated.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dgc_topo.compression.accumulation import Ages, Staleness
from dgc_topo.compression.assembly import groups_of, step_of
from dgc_topo.compression.balance import Balance
from dgc_topo.compression.compressor import (
    Sections,
    check_optimizer,
    check_owner,
    position_of,
    restore,
    snapshot,
)
from dgc_topo.compression.config import DGCConfig, config_of
from dgc_topo.compression.density import DensitySchedule
from dgc_topo.compression.gradients import Gradients, whole_gradients
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.local_step import Sent, Term
from dgc_topo.compression.parameters import (
    Parameters,
    check_parameters,
    count_workers,
    describe_dgc,
    is_frozen,
    named_parameters,
)
from dgc_topo.compression.selection import Selection
from dgc_topo.compression.summed import Payloads, SumRules
from dgc_topo.compression.values import check_epoch
from dgc_topo.payload import BundlePayload, DensePayload, Entries, Payload
from dgc_topo.scalars import plain_float
from dgc_topo.sizes import is_compressed, is_sparse
from dgc_topo.wire.tensors import TORCH_DTYPES


class DGC:
    """One rank's compressor; state is float32, keyed by parameter name.

    Tensors with more than one dimension are compressed into one sparse payload over their
    concatenation; the others (biases, norms) travel dense, and get ordinary momentum after the
    sum.  At density 1 everything is one dense payload, and the updates equal those of
    torch.optim.SGD to rounding.

    Args:
        parameters: A module, tensors by name, or pairs such as ``model.named_parameters()``, all on
            one device; read for weight decay.
        num_workers: N, the ranks that contribute gradients; by default those of the process group.
        config: Settings; the paper's by default.
        select: Rule that selects the elements to send, instead of the one that *config* describes.
        density_schedule: Density by epoch, instead of the one that *config* describes.
        settings: Those of `DGCConfig`, by name, instead of *config*: ``DGC(model, density=0.01)``.

    Raises:
        ValueError: if the parameters do not fit together, *num_workers* is below 1, or missing
            without a process group, or a setting is unknown or given beside *config*.

    Example:
        >>> import torch
        >>> dgc = dt.DGC(torch.nn.Linear(100, 10), num_workers=4, density=0.01, warm_up="none")
        >>> payload = dgc.compress({"weight": torch.rand(10, 100), "bias": torch.rand(10)})
        >>> sorted(dgc.finish(payload))  # after dt.all_reduce(payload, "ring") on every rank
        ['bias', 'weight']
    """

    name = "dgc"
    owns_momentum = True
    #: True in subclasses for a part of a model, which may have nothing to compress.
    is_part = False

    def __init__(
        self,
        parameters: Parameters,
        *,
        num_workers: int | None = None,
        config: DGCConfig | None = None,
        select: Selection | None = None,
        density_schedule: DensitySchedule | None = None,
        **settings: Any,
    ) -> None:
        num_workers = count_workers("dgc", num_workers)
        self._config = config = config_of(config, settings)
        self._parameters = named_parameters("dgc", parameters)
        self._device = check_parameters("dgc", self._parameters)
        self._num_workers = num_workers
        self._settled = {f"dgc's {key}": value for key, value in asdict(config).items()}
        self._settled["dgc's num_workers"] = num_workers
        self._schedule = density_schedule or config.density_schedule()
        # Without a warm-up every progress gives the same density, so it need not be set.
        self._epoch: float | None = None if self._schedule.warm_up_epochs else 0.0
        self.step = 0  #: steps compressed so far

        compressed = {n: p for n, p in self._parameters.items() if is_compressed(p.shape)}
        layout = FlatLayout.of(compressed)
        self._local_step = step_of(
            self.name, self._parameters, layout, config, select, num_workers=num_workers
        )
        self._accumulation = self._local_step.accumulation
        groups = groups_of(config, layout)
        self._sent: Entries | None = None  # of the last step, unless it was dense
        follows_sums = config.balance and config.merge != "union"
        self._balance = Balance(layout) if follows_sums else None
        self._before: Entries | None = None  # residuals before rejected entries came to them
        self._ages = Ages(layout.length, self._device) if config.needs_ages else None
        dense = {n: p for n, p in self._parameters.items() if n not in compressed}
        self._rules = SumRules(compressed, dense, self._device, config)
        self._dense = self._rules.dense
        others = self._dense.layout.length
        layers = layout.inner_bounds
        self._payloads = Payloads(groups, others, self._device, config, layers, self._balance)
        if not (compressed or self.is_part):
            warnings.warn(f"dgc compresses nothing: {self.describe()}", stacklevel=2)

    def __repr__(self) -> str:
        sizes = self._accumulation.layout.length, sum(p.numel() for p in self._parameters.values())
        target = self._schedule.target
        return (
            f"DGC({sizes[0]:,} of {sizes[1]:,} elements compressed, density={target:g}, "
            f"num_workers={self._num_workers})"
        )

    @property
    def density(self) -> float:
        """Fraction of each compressed tensor that is sent at the current progress.

        Raises:
            RuntimeError: if there is a warm-up and `set_progress` was never called.
        """
        if self._epoch is None:
            raise RuntimeError(
                "dgc: set_progress was never called, expected a call before each step while "
                f"density warms up for {self._schedule.warm_up_epochs:g} epochs"
            )
        density = plain_float("dgc: density", self._schedule.density_at(self._epoch))
        if not 0 < density <= 1:
            raise ValueError(f"dgc: density {density} at epoch {self._epoch}, expected 0 < it <= 1")
        return self._payloads.density_sent(density)

    def set_progress(self, epoch: float) -> None:
        """Set the density for the epochs done so far, fractions included."""
        self._epoch = check_epoch(self.name, epoch)

    @torch.no_grad()
    def compress(self, gradients: Gradients) -> Payload:
        """Accumulate the gradients and return the payload of this step.

        Returns:
            A `BundlePayload` of a `SparsePayload` over the compressed tensors and a `DensePayload`
            over the others; at density 1 one `DensePayload` over both, in that order.

        Raises:
            ValueError: as `Compressor.compress`.
            NonFiniteGradientError: if a gradient holds NaN or infinity, or adding it up would
                overflow float32; nothing has changed then.
        """
        density = self.density
        self._sent = self._before = None
        whole = whole_gradients(self.name, gradients, self._parameters)
        factor = self._local_step.accumulate(
            whole, density, clip_norm=self._local_clip_norm(), decay=self._local_decay()
        )
        dense = self._dense.layout.flatten(whole, self._device).mul_(factor)
        sent = self._local_step.sent(density) if is_sparse(density) else None
        self.step += 1
        payload = self._send_all(dense) if sent is None else self._send_some(sent, dense)
        payload.made_with = self._settings(density)
        if self.step % self._config.clear_every_steps == 0:
            self._clear_velocities()
        return payload

    def neutral(self) -> Payload:
        """Return a payload of zeros, of the kind that `compress` makes at the current density."""
        payload = self._payloads.neutral(self.density)
        payload.made_with = self._settings(self.density)
        return payload

    def _settings(self, density: float) -> dict[str, object]:
        """Return the settings that must be equal on every rank, beside the parameters' shapes."""
        return {**self._settled, "dgc's density now": density}

    @torch.no_grad()
    def finish(self, payload: Payload) -> dict[str, Tensor]:
        """Return the updates: the sum itself, with momentum on the tensors that travelled dense.

        With another merge than ``union`` every rank calls it: entries that this rank rejected when
        it completed a part of the sum go to its residual.
        """
        compressed, dense = self._payloads.parts(self.name, payload)
        self._learn_from(payload)
        views = self._accumulation.layout.views(compressed)
        self._rules.update_compressed(compressed, views)
        views |= self._dense.layout.views(self._dense.update(dense))
        return {name: views[name] for name in self._parameters}

    def give_back(self, indices: Tensor, values: Tensor) -> None:
        """Return rejected elements to the residual, so that a later step sends them.

        Args:
            indices: Into the concatenation of the compressed tensors, as in the sparse payload;
                shape (n,), int64.
            values: Shape (n,), float32.

        Raises:
            ValueError: if the shapes or types differ.
        """
        types = indices.dtype, values.dtype
        if (
            indices.shape != values.shape
            or indices.dim() != 1
            or types != (torch.int64, torch.float32)
        ):
            raise ValueError(
                f"dgc: give_back of indices {tuple(indices.shape)} {types[0]} and values "
                f"{tuple(values.shape)} {types[1]}, expected two 1-D tensors of one length, int64 "
                "and float32"
            )
        self._accumulation.give_back(indices, values)

    def take_back(self) -> None:
        """Return to the residual what the last step sent, because nobody applies its sum.

        What the sum rejected leaves the residual again.

        Every rank calls this, before its next step, and at most once per step.  What travelled
        dense is dropped, as an optimizer drops the gradient of a step that it skips.  Velocities
        that were masked stay zero.
        """
        if self._before is not None:
            self._accumulation.put_back(self._before)
        if self._sent is not None:
            self._accumulation.give_back(*self._sent)
        self._sent = self._before = None

    def describe(self) -> str:
        """Return a table of the tensors that are compressed after the warm-up, and of the rest."""
        return describe_dgc(self._parameters, self._schedule.target, self._config.coding)

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Refuse an optimizer with momentum of its own.

        Raises:
            ValueError: as `dgc_topo.compression.check_optimizer`.
        """
        check_optimizer(optimizer, self)

    def residuals(self) -> dict[str, Tensor]:
        """Return the residual v of each compressed parameter, sharing memory."""
        return self._accumulation.layout.views(self._accumulation.residual)

    def velocities(self) -> dict[str, Tensor]:
        """Return the velocity u of each compressed parameter, sharing memory.

        Empty if momentum is applied after the sum instead.
        """
        state = self._accumulation
        return state.layout.views(state.velocity) if self._config.corrects_momentum else {}

    def staleness(self) -> Staleness:
        """Return histograms of how many steps sent elements waited, and of how many all wait now.

        Raises:
            RuntimeError: if the settings do not track ages.
        """
        if self._ages is None:
            raise RuntimeError("dgc: staleness needs ages, expected track_ages in the settings")
        return self._ages.staleness(self.step)

    def sections(self) -> Sections:
        """Return the live state, by section and parameter name, sharing memory."""
        return {
            "velocity": self.velocities(),
            "residual": self.residuals(),
            **({} if self._ages is None else self._ages.sections(self._accumulation.layout)),
            "momentum": self._dense.buffers(),
            "momentum_after_sum": self._rules.compressed.buffers(),
            **({} if self._balance is None else {"shares": self._balance.views()}),
        }

    def state_dict(self) -> dict[str, object]:
        """Return copies of u, v and all momenta by parameter name, the step and the progress."""
        position = {"step": self.step, "epoch": self._epoch}
        return {"compressor": self.name, **position, **snapshot(self.sections())}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a snapshot, bit for bit."""
        check_owner(self.name, state)
        step, epoch = position_of(self.name, state)
        restore(self.name, state, self.sections())
        self._accumulation.forget_bounds()
        self.step, self._epoch = step, epoch

    def _clear_velocities(self) -> None:
        state, every = self._accumulation, self._config.clear_every_steps
        if not len(state.velocity):
            return
        if self._config.clear_velocities == "all":
            state.velocity.zero_()
        elif self._config.clear_velocities == "stale" and self._ages is not None:
            self._ages.clear_stale(state.velocity, self.step, every)

    def _local_clip_norm(self) -> float | None:
        # Independent local gradients add like random steps: N of this norm sum to about clip_norm.
        bound = self._config.clip_norm
        return None if bound is None else bound * self._num_workers**-0.5

    def _local_decay(self) -> Term | None:
        decay = self._config.weight_decay / self._num_workers
        local = self._config.weight_decay_mode == "local" and decay
        if not local:
            return None
        frozen = {n: torch.zeros_like(p) for n, p in self._parameters.items() if is_frozen(p)}
        return (self._parameters | frozen if frozen else self._parameters), decay

    def _send_all(self, dense: Tensor) -> DensePayload:
        length = self._accumulation.layout.length
        buffer = torch.empty(length + len(dense), dtype=torch.float32, device=self._device)
        self._accumulation.send_all(buffer[:length], TORCH_DTYPES[self._config.coding.dense_dtype])
        if self._ages is not None:
            self._ages.note_all_sent(self.step)
        buffer[length:].copy_(dense)
        return self._payloads.dense(buffer)

    def _send_some(self, sent: Sent, dense: Tensor) -> BundlePayload:
        if self._ages is not None:
            self._ages.note_sent(sent.indices, self.step)
        self._sent = Entries(sent.indices, sent.values)
        return self._payloads.sparse(sent, dense, self.density)

    def _learn_from(self, payload: Payload) -> None:
        """Add to the residual what this rank took out of the sum, and remember where it lies."""
        rejected = self._payloads.learn_from(payload)
        if rejected is not None:
            self._before = self._accumulation.take_in(rejected)
