"""Gradients that are averaged twice: found before a compressor with momentum counts them twice."""

from __future__ import annotations

import weakref
from collections.abc import Mapping

from torch import Tensor, nn


class Leftovers:
    """Look, at one parameter, for a gradient that was averaged and then not set to zero.

    DDP adds the next gradient to it, and gives the hook both.  An average of averages is the same
    average, so plain DDP may do that; a velocity would count the first one twice.  Gradients that
    were added up under ``no_sync`` have not been averaged before.

    Args:
        parameters: The model's, by name.

    Raises:
        ValueError: if all are frozen.

    Attributes:
        name: The parameter that is looked at.
        are_there: True if this pass began with a gradient that was averaged already.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        trained = {n: p for n, p in parameters.items() if p.requires_grad and p.numel()}
        if not trained:
            raise ValueError("hook: no parameter of the model gets a gradient, expected some")
        # Small ones are read fast, and those of one dimension are sent whole.
        self.name = min(trained, key=lambda n: (trained[n].dim() > 1, trained[n].numel()))
        self.are_there = self._is_averaged = False
        own, parameter = weakref.ref(self), weakref.ref(trained[self.name])

        def look(_: Tensor) -> None:
            watch, watched = own(), parameter()
            if watch is not None and watched is not None:
                watch.look(watched.grad)

        handle = trained[self.name].register_hook(look)  # type: ignore[no-untyped-call]
        weakref.finalize(self, handle.remove)

    def note_averaged(self) -> None:
        """Note that the gradient is going to be averaged."""
        self._is_averaged = True

    def look(self, gradient: Tensor | None) -> None:
        """Look at the gradient that a backward pass is going to add to."""
        if gradient is None or not bool(gradient.any()):
            self.are_there = self._is_averaged = False
        elif self._is_averaged:
            self.are_there = True
