"""`Facade`: an optimizer that wraps another one, and shares its groups and its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class Facade(Optimizer):
    """An optimizer for schedules, scalers and hooks, over another one that does the work.

    Args:
        optimizer: The other one.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self._wrapped = optimizer
        self._share()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the wrapped optimizer."""
        wrapped: Optimizer = self.__dict__.get("_wrapped", super())  # torch's constructor adds, too
        wrapped.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of all parameters."""
        self._wrapped.zero_grad(set_to_none)

    def register_state_dict_pre_hook(
        self, hook: Callable[[Optimizer], None], prepend: bool = False
    ) -> RemovableHandle:
        """Register a hook with the wrapped optimizer, whose state it concerns."""
        return self._wrapped.register_state_dict_pre_hook(hook, prepend)

    def register_state_dict_post_hook(
        self,
        hook: Callable[[Optimizer, dict[str, Any]], dict[str, Any] | None],
        prepend: bool = False,
    ) -> RemovableHandle:
        """Register a hook with the wrapped optimizer, whose state it concerns."""
        return self._wrapped.register_state_dict_post_hook(hook, prepend)

    def register_load_state_dict_pre_hook(
        self,
        hook: Callable[[Optimizer, dict[str, Any]], dict[str, Any] | None],
        prepend: bool = False,
    ) -> RemovableHandle:
        """Register a hook with the wrapped optimizer, whose state it concerns."""
        return self._wrapped.register_load_state_dict_pre_hook(hook, prepend)

    def register_load_state_dict_post_hook(
        self, hook: Callable[[Optimizer], None], prepend: bool = False
    ) -> RemovableHandle:
        """Register a hook with the wrapped optimizer, whose state it concerns."""
        return self._wrapped.register_load_state_dict_post_hook(hook, prepend)

    def __getstate__(self) -> dict[str, Any]:
        name = type(self).__name__
        raise TypeError(f"{name}: has connections, which cannot be copied; use state_dict()")

    def _share(self) -> None:
        """Take the wrapped optimizer's groups and state, which it may have replaced."""
        self.param_groups, self.state = self._wrapped.param_groups, self._wrapped.state
