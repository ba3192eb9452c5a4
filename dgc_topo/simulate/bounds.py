"""What no schedule can beat."""

from __future__ import annotations

from dgc_topo.cost import Cost
from dgc_topo.schedule import Schedule


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


def goal_bound_s(
    schedule: Schedule,
    cost: Cost,
    num_bytes: float,
    bandwidth_bytes_per_s: float,
    latency_s: float,
    merged_bytes: float | None = None,
) -> float:
    """Return a time that no schedule with the same goal and ranks can beat among equal ports.

    - An all-reduce: `lower_bound_s`.  With s servers, which contribute nothing, w contributors send
      and receive every byte at least once, and ``2 (w - 1)`` times in all over ``w + s`` ports.
    - Gossip: one neighbour's buffer (or less, if the schedule sends less): ``alpha + n / B``.
    - A building block promises nothing: 0.

    Args:
        schedule: For its goal, ranks and servers.
        cost: Of the schedule; a rank sends as many messages at once as it ever does there.
        num_bytes: What one contributor has to give (n).
        bandwidth_bytes_per_s: Of a rank's port, each way.
        latency_s: One way, host to host (alpha).
        merged_bytes: For sparse gradients, bytes of the union of all contributors but one: what
            each must at least receive in an all-reduce.  Dense if left out.

    Raises:
        ValueError: if a number makes no sense.
    """
    contributors = len(schedule.contributors)
    latency_only_s = lower_bound_s(
        max(contributors, 1),
        0.0,
        bandwidth_bytes_per_s,
        latency_s,
        messages_at_once=max(1, cost.most_per_step),
    )
    if schedule.goal == "part" or not cost.num_messages:
        return 0.0
    if schedule.goal != "all-reduce":
        return latency_s + min(1.0, cost.buffers_sent) * num_bytes / bandwidth_bytes_per_s
    if merged_bytes is None:
        times = max(1.0, 2 * (contributors - 1) / schedule.world_size) if contributors > 1 else 0.0
        merged_bytes = times * num_bytes
    return max(latency_only_s, merged_bytes / bandwidth_bytes_per_s)
