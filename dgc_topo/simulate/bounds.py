"""What no schedule can beat."""

from __future__ import annotations


def lower_bound_s(
    num_ranks: int,
    num_bytes: float,
    bandwidth_bytes_per_s: float,
    latency_s: float,
    *,
    messages_at_once: int = 1,
) -> float:
    """Return a time that no all-reduce among equal ports can beat.

    The larger of two:

    - ``ceil(lg p) * alpha``: a contribution reaches at most twice as many ranks per message time;
      with k messages at once ``k + 1`` times as many, so the base of the logarithm is ``k + 1``.
    - ``2 (p - 1) / p * n / bandwidth``: bytes that some rank's port has to carry when the ranks do
      the reduction themselves (Patarasuk & Yuan, 2009).  Dedicated servers are such ranks as well:
      count them, or know that they can beat this bound.

    Args:
        num_ranks: Ranks that take part (p), at least 1.
        num_bytes: Size of the buffer (n).
        bandwidth_bytes_per_s: Of a rank's port, each way.
        latency_s: One way, host to host (alpha).
        messages_at_once: Messages that a rank sends in one step (k).

    Raises:
        ValueError: if a number makes no sense.
    """
    if num_ranks < 1 or messages_at_once < 1:
        raise ValueError(
            f"lower bound: {num_ranks} ranks, {messages_at_once} messages at once, "
            "expected at least 1"
        )
    if not num_bytes >= 0 or not latency_s >= 0:
        raise ValueError(
            f"lower bound: {num_bytes} bytes, latency {latency_s} s, expected 0 or more"
        )
    if not bandwidth_bytes_per_s > 0:
        raise ValueError(f"lower bound: bandwidth {bandwidth_bytes_per_s}, expected above 0")
    port_s = 2 * (num_ranks - 1) / num_ranks * num_bytes / bandwidth_bytes_per_s
    rounds, reached = 0, 1
    while reached < num_ranks:  # in integers: a logarithm may round the wrong way
        rounds, reached = rounds + 1, reached * (messages_at_once + 1)
    return max(rounds * latency_s, port_s)
