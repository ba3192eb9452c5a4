"""Forward and backward pass of one worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from dgc_topo.training.models import Batch, Task
from dgc_topo.training.steps import PhaseClock


def compute_gradients(
    task: Task,
    model: nn.Module,
    batches: Iterator[Batch],
    scale: float,
    before_backward: Callable[[], None] = lambda: None,
    *,
    time_scale: float = 1.0,
) -> tuple[float, float]:
    """Leave the next batch's scaled gradient in the parameters.

    Args:
        task: For its loss.
        model: What is trained.
        batches: Where the next batch comes from.
        scale: Of the gradient.
        before_backward: Called between the two passes.
        time_scale: See `PhaseClock`.

    Returns:
        The unscaled loss, and the seconds that batch, forward and backward pass took.
    """
    clock = PhaseClock(task.device, time_scale, task.worked_s)
    batch = next(batches)
    model.zero_grad(set_to_none=True)
    loss: Tensor = task.loss(model, batch)
    before_backward()
    (loss * scale).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return float(loss.item()), clock.lap()
