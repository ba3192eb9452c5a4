"""Launches that repeat: recorded as a CUDA graph, so that the host launches all of them at once."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Recorded:
    """Does the same work on the same memory at every call.

    The first call launches kernels one by one, which compiles them; from the second on they are a
    graph.  On a CPU, where kernels are interpreted, there is none.

    Args:
        work: Launches kernels on the current stream; it must not wait, nor ask for results.
        device: Where they run.
    """

    def __init__(self, work: Callable[[], None], device: torch.device) -> None:
        self._work = work
        self._device = device
        self._called = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Do the work."""
        if self._graph is None and self._called and self._device.type == "cuda":
            self._graph = self._recorded()
        if self._graph is None:
            self._work()
            self._called = True
            return
        with torch.cuda.device(self._device):
            self._graph.replay()

    def _recorded(self) -> torch.cuda.CUDAGraph:
        # torch.cuda.graph() would also collect garbage and empty the allocator's cache.
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # by torch
            stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(stream):
                # Other threads, such as one that receives messages, may go on meanwhile.
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self._work()
                finally:
                    graph.capture_end()
            torch.cuda.current_stream(self._device).wait_stream(stream)
        return graph
