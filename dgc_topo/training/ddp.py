"""Training with PyTorch's DistributedDataParallel, a communication hook, and the optimizer by name.

DDP all-reduces buckets of gradients during the backward pass; a hook decides what travels.
`DdpStep` fits the same training loop as the other strategies, and records the same facts:

* the bytes a rank sent, from the kernel's counters of the process's own TCP connections;
* the bytes of its own gradient, as the hook gives them to the all-reduce;
* the communication that was not hidden: the time from the last bucket's hook to the end of
  backward.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from dgc_topo.runtime.connections import tcp_bytes_sent
from dgc_topo.training.clocks import PhaseClock, wait_until
from dgc_topo.training.compression import CompressionSection
from dgc_topo.training.job import Job
from dgc_topo.training.models import Task
from dgc_topo.training.optimizers import make_optimizer, set_learning_rate
from dgc_topo.training.rank import Computed, StepRecord, TrainingRank
from dgc_topo.training.settings import TrainSection
from dgc_topo.training.steps import Strategy

_Future = torch.futures.Future[Tensor]

#: Tensors by bucket that PowerSGD keeps: what was not sent, and its last factors.
_POWERSGD = ("error_dict", "p_memory_dict", "q_memory_dict")


class Hook:
    """A communication hook of DDP that counts the bytes of its buckets, and notes the time.

    Args:
        compression: Names the hook.
        task: Task whose gradients they are.
        time_scale: Above 1, a bucket's all-reduce starts no earlier than so many times the
            processor time that led to it (see `PhaseClock`); earlier buckets travel meanwhile.
    """

    def __init__(self, compression: CompressionSection, task: Task, time_scale: float) -> None:
        self._task = task
        self._time_scale = time_scale
        self._method = compression.method
        self._state: Any = None
        if self._method == "ddp-powersgd":
            self._state = powerSGD_hook.PowerSGDState(
                process_group=None,
                matrix_approximation_rank=compression.powersgd_rank,
                start_powerSGD_iter=compression.powersgd_start_step,
            )
        self.called_s = 0.0
        self.begin()

    def begin(self) -> None:
        """Begin to count for a step."""
        self.encoded_bytes = self.elements = self.elements_sent = 0
        self._begun_s, self._worked_before_s = time.perf_counter(), self._task.worked_s()

    @property
    def density(self) -> float:
        """Numbers that travelled in this step, as a fraction of the gradient's."""
        return self.elements_sent / max(self.elements, 1)

    def state_dict(self) -> dict[str, Any]:
        """Return what PowerSGD carries from step to step, by bucket; nothing without it."""
        state = self._state
        if state is None:
            return {}
        name, keys, *rest = state.rng.get_state()
        return {
            "iter": state.iter,
            "rng": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
            **{key: dict(getattr(state, key)) for key in _POWERSGD},
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from such a state, bit for bit."""
        if self._state is None:
            return
        device = self._task.device
        self._state.iter = saved["iter"]
        name, keys, *rest = saved["rng"]
        self._state.rng.set_state((name, keys.numpy().astype(np.uint32), *rest))
        for key in _POWERSGD:
            setattr(self._state, key, {at: each.to(device) for at, each in saved[key].items()})

    def __call__(self, bucket: GradBucket) -> _Future:
        """Start the all-reduce of one bucket."""
        if self._time_scale > 1:
            worked_s = self._task.worked_s() - self._worked_before_s
            wait_until(self._begun_s + self._time_scale * worked_s)
        self.called_s = time.perf_counter()
        with self._task.aside():
            return self._start(bucket)

    def _start(self, bucket: GradBucket) -> _Future:
        buffer = bucket.buffer()
        match self._method:
            case "ddp":
                self._note(buffer, buffer.numel(), buffer.itemsize)
                return default_hooks.allreduce_hook(None, bucket)  # type: ignore[arg-type]
            case "ddp-fp16":
                self._note(buffer, buffer.numel(), torch.float16.itemsize)
                return default_hooks.fp16_compress_hook(None, bucket)  # type: ignore[arg-type]
        before = self._state.total_numel_after_compression
        future = powerSGD_hook.powerSGD_hook(self._state, bucket)
        # The state counts once PowerSGD has begun; until then whole buckets travel.
        sent = self._state.total_numel_after_compression - before
        self._note(buffer, sent or buffer.numel(), buffer.itemsize)
        return future

    def _note(self, buffer: Tensor, sent: int, bytes_each: int) -> None:
        self.elements += buffer.numel()
        self.elements_sent += sent
        self.encoded_bytes += sent * bytes_each


def check_powersgd(job: Job, num_steps: int) -> None:
    """Refuse a training that is over before PowerSGD begins.

    Raises:
        ValueError: if all of its steps would be dense.
    """
    start = job.compression.powersgd_start_step
    if job.compression.method == "ddp-powersgd" and num_steps <= start:
        raise ValueError(
            f"{job.label}: compression.powersgd_start_step = {start}: gradients are dense until "
            f"then, expected less than all {num_steps} steps"
        )


class DdpStep(Strategy):
    """The rest of a step, once DDP has averaged the gradients.

    Args:
        model: Model that DDP wraps; its forward pass must go through `forward`.
        train: Settings of the optimizer.
        compression: Names the hook.
        task: See `Hook`.
        time_scale: See `Hook`.

    Raises:
        ValueError: if the backend's bytes cannot be counted, or weight decay is decoupled, which
            torch.optim.SGD does not know.
    """

    def __init__(
        self,
        model: nn.Module,
        train: TrainSection,
        compression: CompressionSection,
        task: Task,
        time_scale: float = 1.0,
    ) -> None:
        method = compression.method
        if dist.get_backend() != "gloo":
            raise ValueError(
                f"{method}: backend {dist.get_backend()}, expected gloo: what a rank sends is "
                "counted on its TCP connections"
            )
        if train.weight_decay and compression.weight_decay_mode == "decoupled":
            raise ValueError(f"{method}: weight_decay_mode 'decoupled', expected another")
        self._hook = Hook(compression, task, time_scale)
        self._clip_norm = train.clip_norm
        self._parameters: Mapping[str, nn.Parameter] = dict(model.named_parameters())
        self._optimizer = make_optimizer(train, self._parameters.values())
        ddp = DistributedDataParallel(model, bucket_cap_mb=train.bucket_mib)
        # DDP looks at annotations, which are text in this module: a lambda has none.
        ddp.register_comm_hook(None, lambda _, bucket: self._hook(bucket))
        self.forward: nn.Module | None = ddp
        self._sent_before = 0
        self._clock = PhaseClock(next(model.parameters()).device, time_scale)

    def prepare_to_resume(self, rank: TrainingRank) -> None:
        """See `Strategy.prepare_to_resume`: let DDP see a pass.

        After the first one it makes other buckets, which sum in another order.
        """
        rank.begin_epoch(0)
        rank.compute(self.forward, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state, and that of PowerSGD."""
        return {"optimizer": self._optimizer.state_dict(), "hook": self._hook.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state, bit for bit."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._hook.load_state_dict(state["hook"])

    def begin(self, iteration: int, epoch: float, learning_rate: float) -> None:
        """See `Strategy.begin`."""
        del iteration, epoch
        set_learning_rate(self._optimizer, learning_rate)
        self._hook.begin()
        self._sent_before = tcp_bytes_sent()

    def apply(self, computed: Sequence[Computed]) -> list[StepRecord]:
        """See `Strategy.apply`: DDP has sent the gradient, and the backward pass waited for it."""
        wait_s = time.perf_counter() - self._hook.called_s
        (own,) = computed
        self._clock.start()
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters.values(), self._clip_norm)
        self._optimizer.step()
        return [
            StepRecord(
                compute_s=own.pass_s - wait_s,
                compress_s=0.0,
                communicate_s=0.0,
                wait_s=wait_s,
                update_s=self._clock.lap(),
                bytes_sent=tcp_bytes_sent() - self._sent_before,
                messages_sent=None,
                encoded_bytes=self._hook.encoded_bytes,
                density=self._hook.density,
                loss=own.loss,
                interface_bytes=own.interface_bytes,
            )
        ]
