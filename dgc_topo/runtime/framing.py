"""The eight-byte head of a message whose size only the sender knows.

From the lowest byte on: five bytes of length, two of a checksum over the length and the message's
last bytes, and a mark.  The length decides how much memory is allocated and which bytes belong to
the message.  Gloo does not tell how many bytes have come: if fewer came than announced, the last
bytes belong to an older message, and the checksum does not match.
"""

from __future__ import annotations

from zlib import crc32

from torch import Tensor

from dgc_topo.payload import WireError

LENGTH_BYTES = 8  #: bytes of the head described here (Gloo), or of the int64 size in a batch
_SIZE_BITS, _CHECK_BITS = 40, 16
MARK = 0x5D  #: changed with every new meaning of these bytes
_MOST_BYTES = (1 << _SIZE_BITS) - 1
_TAIL_BYTES = 8


def wire_bytes(message_bytes: int, *, sized: bool) -> int:
    """Return the bytes handed to the backend for a message; *sized* if both ends know its size."""
    return message_bytes if sized else message_bytes + LENGTH_BYTES


def write_head(head: Tensor, message: Tensor) -> None:
    """Write the head of a message.

    Args:
        head: 8 bytes of CPU memory.
        message: 1-D uint8, in CPU memory.
    """
    size = message.numel()
    word = size | _check(size, message) << _SIZE_BITS | MARK << _SIZE_BITS + _CHECK_BITS
    head.numpy()[:] = bytearray(word.to_bytes(LENGTH_BYTES, "little"))


def announced_bytes(head: Tensor, peer: int, most_bytes: int | None) -> int:
    """Return the length that a head announces.

    Args:
        head: The beginning of what arrived, in CPU memory.
        peer: Sending rank, for errors.
        most_bytes: Most bytes of a possible message; None if that is not known.

    Raises:
        WireError: if it is not a head, or announces more bytes.
    """
    word = _word(head)
    if word >> _SIZE_BITS + _CHECK_BITS != MARK:
        raise WireError(
            f"wire: a message of rank {peer} begins with {word:#018x}, expected its length and "
            f"the mark {MARK:#x}"
        )
    size = word & _MOST_BYTES
    check_size(size, peer, most_bytes)
    return size


def check_size(num_bytes: int, peer: int, most_bytes: int | None) -> None:
    """Refuse an impossible length from a peer, before memory is allocated for it.

    Raises:
        WireError: if it is negative, or above *most_bytes*.
    """
    if num_bytes < 0 or (most_bytes is not None and num_bytes > most_bytes):
        most = "" if most_bytes is None else f" to {most_bytes}"
        raise WireError(f"wire: rank {peer} announces {num_bytes} bytes, expected 0{most}")


def check_arrived(head: Tensor, peer: int, message: Tensor) -> None:
    """Refuse a message that is shorter than its head announces, or that has other content.

    Args:
        head: As `announced_bytes`.
        peer: As `announced_bytes`.
        message: The announced number of bytes, in CPU memory.

    Raises:
        WireError: if its last bytes are not the ones that were sent.
    """
    expected = _word(head) >> _SIZE_BITS & (1 << _CHECK_BITS) - 1
    if _check(message.numel(), message) != expected:
        raise WireError(
            f"wire: rank {peer} announces {message.numel()} bytes, expected as many as it sent: "
            "the last of them are not its own"
        )


def _word(head: Tensor) -> int:
    return int.from_bytes(head[:LENGTH_BYTES].numpy().tobytes(), "little")


def _check(size: int, message: Tensor) -> int:
    tail = message[max(size - _TAIL_BYTES, 0) :].numpy().tobytes()
    return crc32(size.to_bytes(LENGTH_BYTES, "little") + tail) & (1 << _CHECK_BITS) - 1
