"""The checksum of a message: two sums of its 32-bit words modulo a prime.

Words w_1, w_2, ... are signed 32-bit integers; sums are ``sum(w_i) mod P`` and ``sum(i * w_i) mod
P`` with ``P = 2**32 - 5``, the largest prime that fits 32 bits (Fletcher's checksum, 1982, with a
prime as in Adler-32).  At any length it finds every single and double bit flip, and every burst of
up to 31 bits (proofs in FORMAT.md).  Of other errors it misses one in 2**64.

Unlike a CRC it is made of sums, which run on any device without leaving it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PRIME = 2**32 - 5
ROW = 4096  #: words summed with their own factors; longer messages are rows of so many
MOST_HOST_WORDS = 1 << 16  #: in a CPU's memory; above, torch is as fast
_AT_ONCE = 2 * ROW
_HOST_FACTORS = np.stack([np.ones(_AT_ONCE, np.int64), np.arange(1, _AT_ONCE + 1, dtype=np.int64)])
_BLOCK_ROWS = 32  # on a CPU: as many rows at once as its cache holds, widened to int64


def word_sums(words: Tensor) -> Tensor:
    """Return both sums of *words*, modulo `PRIME` up to a multiple of it.

    Args:
        words: Shape (n,), int32; the first word has factor 1.

    Returns:
        Shape (2,), int64, on the device of *words*; nothing here waits for a GPU.
    """
    count = len(words)
    if count <= ROW:
        return _row_sums(words)
    rows = count // ROW
    sums = _many_rows(words[: rows * ROW].view(rows, ROW))
    rest = words[rows * ROW :]
    if len(rest):
        plain, weighted = _row_sums(rest).unbind()
        sums += torch.stack([plain, weighted + plain % PRIME * (rows * ROW % PRIME) % PRIME])
    return sums


def few_word_sums(words: npt.NDArray[np.int32]) -> tuple[int, int]:
    """Return the sums of words in a CPU's memory, in fewer calls where they are few."""
    plain = weighted = 0
    for first in range(0, len(words), _AT_ONCE):
        part = words[first : first + _AT_ONCE].astype(np.int64)
        more, own = (_HOST_FACTORS[:, : len(part)] @ part).tolist()
        plain, weighted = plain + more, weighted + own + first * more
    return plain, weighted


def _row_sums(words: Tensor) -> Tensor:
    """Return both sums of at most `ROW` words; below 2**56."""
    factors = _factors(words.device)[:, : len(words)]
    wide = words.to(torch.int64)
    if wide.device.type == "cpu":
        return torch.mv(factors, wide)
    return (factors * wide).sum(1)  # a GPU multiplies no integer matrices


def _many_rows(table: Tensor) -> Tensor:
    """Return both sums of words in rows: from the sums of rows and of columns alone."""
    rows = len(table)
    by_row, by_column = [], torch.zeros(ROW, dtype=torch.int64, device=table.device)
    step = _BLOCK_ROWS if table.device.type == "cpu" else rows
    for first in range(0, rows, step):
        wide = table[first : first + step].to(torch.int64)
        by_row.append(wide.sum(1))
        by_column += wide.sum(0)
    row_sums = torch.cat(by_row) % PRIME
    before = torch.arange(rows, dtype=torch.int64, device=table.device) * ROW % PRIME
    in_rows = (by_column % PRIME * _factors(table.device)[1]).sum()
    # The product of two remainders could be 2**64, but no message has 2**31 words before a row.
    across = (row_sums * before % PRIME).sum()
    return torch.stack([row_sums.sum(), in_rows + across])


@lru_cache(maxsize=16)
def _factors(device: torch.device) -> Tensor:
    """Return the factors of both sums, shape (2, ROW): ones, and 1 to ROW."""
    return torch.from_numpy(_HOST_FACTORS[:, :ROW]).to(device)
