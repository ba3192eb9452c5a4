"""Compile every kernel for a GPU, anywhere: an interpreter lets pass what a compiler does not."""

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dgc_topo.compression.gpu import selection_kernels, step_kernels, threshold
from dgc_topo.wire import kernels as wire_kernels

TARGET = GPUTarget("cuda", 90, 32)
ELEMENTS = (tl.float32, tl.float16, tl.bfloat16)
FLAGS = (False, True)

_BY_BLOCK = ("block_first", "block_kept", "block_sums", "block_inside", "block_flat")
_LONGS = (
    *("gradients", "weights", "list_begin", "found", "places", "chunk_begin", "group_block"),
    *("outcome", "indices", "steps", "facts", "given", "span_first", "group_begin"),
)
_INTS = (
    *("block_tensor", "block_length", "block_group", "keys", "chunk_group", "wanted", "missed"),
    *("histograms", "limits", "rooms", "span_group"),
)
_FLOATS = (
    *("velocity", "residual", "smallest", "slack", "aim", "width", "values", "clip_factor"),
    "thresholds",
)
TYPES = {
    **dict.fromkeys((*_BY_BLOCK, *_LONGS), "*i64"),
    **dict.fromkeys(_INTS, "*i32"),
    **dict.fromkeys(_FLOATS, "*fp32"),
    **dict.fromkeys(("squares", "bound", "sums"), "*fp64"),
    **dict.fromkeys(("message", "coded"), "*u8"),
    **dict.fromkeys(("momentum", "gradient_factor", "weight_factor"), "fp32"),
    **dict.fromkeys(("start", "length", "size", "first"), "i64"),
}


def variants() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield each kernel with the constants it is compiled for, and the types of what differs."""
    step, select, wire = step_kernels, selection_kernels, wire_kernels
    for element in ELEMENTS:
        yield step.sum_squares, {"element": element, "block": 4096}
        yield step.take, {"element": element, "largest": 6e4, "masks": True, "block": 512}
        for block in (wire.BLOCK, wire.LARGE_BLOCK):
            yield wire.write, {"element": element, "block": block}
    yield step.take, {"element": tl.float32, "largest": 1.0, "masks": False, "block": 512}
    for clips, decays, corrects, scans in itertools.product(FLAGS, repeat=4):
        flags = {"clips": clips, "has_weights": decays, "corrects": corrects, "scans": scans}
        laws = {"nesterov": decays, "keeps": clips or corrects}
        types = {"element": ELEMENTS[clips], "weight_element": ELEMENTS[2 * decays], "block": 1024}
        yield step.accumulate, {**flags, **laws, **types}
    yield step.scan, {"block": 1024}
    digits = {"digits": select.DIGITS, "values": select.VALUES.value}
    shape = {**digits, "chunk": 1024}
    for digit in range(select.DIGITS):
        yield select.count_digits, {"digit": digit, **shape}
    for digit in range(threshold.DIGITS):
        yield select.count_everywhere, {"digit": digit, "chunks": 16, **shape}
    yield select.write_thresholds, {"known": threshold.DIGITS, **digits}
    goal = {"spare": 32.0, "root": 8.0, "least_aim": 2.0, "most_aim": 3.0}
    yield select.count_kept, {**goal, **shape, "block": 1024}
    yield select.place_kept, {"chunk": 1024, "block": 1024}
    for choice, value_bytes in itertools.product(range(3), (2, 4)):
        options = {"choice": choice, "value_bytes": value_bytes, "block": wire.BLOCK}
        yield wire.measure, options
        yield wire.measure, {**options, "given": None}
    yield wire.look, {"block": wire.BLOCK}
    yield wire.read, {"block": wire.BLOCK}


def compiled(kernel: Any, constants: dict[str, Any]) -> int:
    """Compile *kernel* and return the bytes of what a GPU would run."""
    own = {"count": "i64", "width": "i64"} if kernel.__module__.endswith("wire.kernels") else {}
    types = {**TYPES, "count": "i32", **own}
    names = list(inspect.signature(kernel.fn).parameters)
    signature = {n: "constexpr" if n in constants else types[n] for n in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, places, {})
    return len(triton.compile(source, target=TARGET).asm["cubin"])


def main() -> None:
    """Compile everything, and say so."""
    done = set()
    for kernel, constants in variants():
        assert compiled(kernel, constants) > 0
        done.add(kernel.__name__)
    modules = (step_kernels, selection_kernels, wire_kernels)
    there = {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, triton.JITFunction) and not name.startswith("_")
    }
    assert done == there, done ^ there
    print("all compile")  # noqa: T201


if __name__ == "__main__":
    main()
