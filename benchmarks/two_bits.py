"""Trainings with values of 2 bits, with and without the guard, where it widens many layers.

    OMP_NUM_THREADS=1 python -m benchmarks.two_bits                all settings, ten minutes
    OMP_NUM_THREADS=1 python -m benchmarks.two_bits images outliers --seeds 1

Virtual workers train over a butterfly, in which partial sums are rounded again.  "widened" counts
layers of messages, own ones and partial sums, whose two magnitudes miss more than the guard allows
in the training without it; bytes are those of a worker's own message.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

import dgc_topo as dt
from dgc_topo.compression import local_step
from dgc_topo.compression.updates import UpdateCompressor
from dgc_topo.payload import Payload, rounding
from dgc_topo.runtime import run_in_process
from dgc_topo.training.data import load_dataset
from dgc_topo.training.data.austen import load_austen
from dgc_topo.wire import scales
from dgc_topo.wire.coding import WireDtype

_NO_LIMIT = 1e9  #: of a relative error
_DECAY_FROM = 0.7  #: of the steps: from there a tenth of the learning rate


class Task(Protocol):
    """A model, a loss on the next batch, and a loss on data that it was not trained on."""

    model: nn.Module

    def loss(self) -> Tensor:
        """Return the loss of a batch."""

    def value(self) -> float:
        """Return the loss that the table shows."""


class Images:
    """A perceptron of three layers on the shipped part of Fashion-MNIST."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        data = load_dataset("fashion-mnist-subset")
        self._parts = [
            (data.normalise(part.gather(torch.arange(len(part)))).flatten(1), part.labels)
            for part in (data.train, data.test)
        ]
        features = self._parts[0][0].shape[1]
        layers = nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()
        self.model: nn.Module = nn.Sequential(*layers, nn.Linear(64, 10))
        self._generator = torch.Generator().manual_seed(seed)

    def loss(self) -> Tensor:
        """Return the loss of a batch."""
        inputs, labels = self._parts[0]
        at = torch.randint(len(inputs), (16,), generator=self._generator)
        return functional.cross_entropy(self.model(inputs[at]), labels[at])

    @torch.no_grad()
    def value(self) -> float:
        """Return the loss on the test images."""
        inputs, labels = self._parts[1]
        return float(functional.cross_entropy(self.model(inputs), labels))


class Trigrams:
    """The next character of Austen by a table of the two before: rows as frequent as in English."""

    _rows = 1024

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        text = load_austen()
        self._train, self._validation = text.train.long(), text.validation.long()
        self.model: nn.Module = nn.Embedding(self._rows, len(text.vocabulary))
        nn.init.zeros_(self.model.weight)
        self._generator = torch.Generator().manual_seed(seed)

    def loss(self) -> Tensor:
        """Return the loss of a batch."""
        return self._loss(self._train, 64, self._generator)

    @torch.no_grad()
    def value(self) -> float:
        """Return the loss on the validation text."""
        return float(self._loss(self._validation, 8192, torch.Generator().manual_seed(7)))

    def _loss(self, text: Tensor, count: int, generator: torch.Generator) -> Tensor:
        at = torch.randint(2, len(text), (count,), generator=generator)
        rows = (text[at - 1] * 81 + text[at - 2] * 1009) % self._rows
        return functional.cross_entropy(self.model(rows), text[at])


class Outliers:
    """Least squares with features of falling size, and noise without a variance: Student's t."""

    _features, _outputs, _freedom = 1000, 4, 1.5

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self._sizes = torch.arange(1, self._features + 1).float() ** -0.5
        self._truth = torch.randn(self._features, self._outputs)
        self._noise = torch.distributions.StudentT(self._freedom)
        self.model: nn.Module = nn.Linear(self._features, self._outputs, bias=False)
        nn.init.zeros_(self.model.weight)

    def loss(self) -> Tensor:
        """Return the loss of a batch."""
        inputs = torch.randn(4, self._features) * self._sizes
        noise = self._noise.sample(torch.Size((4, self._outputs)))
        missed: Tensor = self.model(inputs) - inputs @ self._truth - noise
        return missed.square().sum(1).mean() / 2

    @torch.no_grad()
    def value(self) -> float:
        """Return the loss without noise, expected over the features."""
        missed = (self.model.weight.t() - self._truth) * self._sizes[:, None]  # type: ignore[operator]  # Linear
        return float(missed.square().sum() / 2)


@dataclass(frozen=True)
class Setting:
    """A training."""

    task: Callable[[int], Task]
    learning_rates: tuple[float, ...]
    density: float = 0.01
    momentum: float = 0.0
    adamw: bool = False
    num_workers: int = 4
    steps: int = 100


SETTINGS: Mapping[str, Setting] = {
    "images": Setting(Images, (0.8,)),
    "images, momentum": Setting(Images, (0.08,), density=0.001, momentum=0.9),
    "images, AdamW": Setting(Images, (8e-3,), adamw=True),
    "trigrams": Setting(Trigrams, (128.0,)),
    "outliers": Setting(Outliers, (0.02, 0.2)),
}
#: Values, and whether the guard is on.
WAYS: tuple[tuple[WireDtype, bool], ...] = (("float32", True), ("int2", True), ("int2", False))


@contextmanager
def guard(*, is_on: bool) -> Iterator[list[int]]:
    """Switch the guard, and count the layers that are rounded, and those it widens or would."""
    counts, rounded, limit = [0, 0], scales.rounded, scales.MOST_ERROR

    def counted(
        indices: Tensor, values: Tensor, bounds: Sequence[int], wire_dtype: WireDtype
    ) -> tuple[Tensor, scales.Scales]:
        scales.MOST_ERROR = _NO_LIMIT
        unguarded = rounded(indices, values, bounds, wire_dtype)
        scales.MOST_ERROR = limit
        sections = scales.sections_of(indices, bounds)
        missed, size = (
            torch.zeros(len(bounds) + 1).index_add_(0, sections, each.square())
            for each in (unguarded[0] - values, values)
        )
        counts[0] += int((size > 0).sum())
        counts[1] += int((missed > limit**2 * size).sum())
        return rounded(indices, values, bounds, wire_dtype) if is_on else unguarded

    modules: tuple[Any, ...] = (local_step, rounding)
    for module in modules:
        module.rounded = counted
    try:
        yield counts
    finally:
        for module in modules:
            module.rounded = rounded


def train(setting: Setting, lr: float, seed: int, wire_dtype: WireDtype) -> tuple[float, float]:
    """Train; return the loss at the end, infinite if it diverged, and the bytes of a message."""
    task, count = setting.task(seed), setting.num_workers
    parameters = dict(task.model.named_parameters())
    ranks = [_Rank(setting, parameters, wire_dtype) for _ in range(count)]
    schedule, num_bytes = dt.load_topology("butterfly").schedule(count), 0
    for step in range(setting.steps):
        now = lr if step < _DECAY_FROM * setting.steps else lr / 10
        payloads = []
        for rank in ranks:
            loss = task.loss()
            if not math.isfinite(loss.item()):
                return math.inf, num_bytes / (step * count or 1)
            task.model.zero_grad()
            (loss / count).backward()  # type: ignore[no-untyped-call]  # by torch
            payloads.append(rank.compress(now))
        num_bytes += sum(payload.encoded_bytes() for payload in payloads)
        run_in_process(schedule, payloads)
        found = [rank.finish(payload) for rank, payload in zip(ranks, payloads, strict=True)]
        with torch.no_grad():
            for name, change in found[0].items():
                parameters[name].sub_(change, alpha=now)
    return task.value(), num_bytes / (setting.steps * count)


class _Rank:
    """A worker: DGC, or AdamW of its own whose updates are compressed."""

    def __init__(
        self, setting: Setting, parameters: Mapping[str, nn.Parameter], wire_dtype: WireDtype
    ) -> None:
        self._parameters = parameters
        self._optimizer: torch.optim.Optimizer | None = None
        count, density = setting.num_workers, setting.density
        self._compressor: dt.DGC | UpdateCompressor
        if setting.adamw:
            self._optimizer = torch.optim.AdamW(parameters.values(), lr=1.0)
            self._compressor = UpdateCompressor(
                parameters, num_workers=count, density=density, wire_dtype=wire_dtype
            )
        else:
            config = dt.DGCConfig(
                density=density, momentum=setting.momentum, warm_up="none", wire_dtype=wire_dtype
            )
            self._compressor = dt.DGC(parameters, num_workers=count, config=config)
        self.finish = self._compressor.finish

    @torch.no_grad()
    def compress(self, lr: float) -> Payload:
        """Return the payload of the gradients at the parameters, or of AdamW's update."""
        if self._optimizer is None:
            return self._compressor.compress({n: p.grad for n, p in self._parameters.items()})
        before = {name: p.clone() for name, p in self._parameters.items()}
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.step()
        changes = {name: (before[name] - p) / lr for name, p in self._parameters.items()}
        for name, p in self._parameters.items():
            p.copy_(before[name])
        return self._compressor.compress(changes)


def _mean(numbers: Sequence[float]) -> str:
    if not all(map(math.isfinite, numbers)):
        return f"{sum(not math.isfinite(each) for each in numbers)} of {len(numbers)} diverged"
    spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return f"{statistics.mean(numbers):.4f} ± {spread:.4f}"


def show(name: str, setting: Setting, lr: float, seeds: Sequence[int]) -> None:
    """Print the row of a setting and a learning rate."""
    cells, sizes, widened = [], [], 0.0
    for wire_dtype, is_on in WAYS:
        with guard(is_on=is_on) as counts:
            runs = [train(setting, lr, seed, wire_dtype) for seed in seeds]
        widened = counts[1] / (counts[0] or 1)
        cells.append(_mean([loss for loss, _ in runs]))
        sizes.append(statistics.mean(num_bytes for _, num_bytes in runs))
    _, on, off = sizes
    print(
        f"| {name} | {setting.density:.1%} | {lr:g} | {' | '.join(cells)} | {widened:.0%} "
        f"| {on:.0f} | {off:.0f} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", nargs="*", default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    chosen = parser.parse_args()
    unknown = set(chosen.settings) - set(SETTINGS)
    if unknown:
        parser.error(f"{sorted(unknown)}, expected some of: {'; '.join(SETTINGS)}")
    torch.set_num_threads(1)
    print(
        "| training | density | learning rate | 32 bits | 2 bits | 2 bits, no guard | widened "
        "| bytes | bytes, no guard |"
    )
    print("| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in chosen.settings:
        for lr in SETTINGS[name].learning_rates:
            show(name, SETTINGS[name], lr, chosen.seeds)


if __name__ == "__main__":
    main()
