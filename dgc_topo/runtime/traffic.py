"""Traffic of a run: its bytes, messages and seconds, step by step."""

from __future__ import annotations

from dataclasses import dataclass

from dgc_topo.units import bytes_text, seconds_text


@dataclass(slots=True)  # not frozen, because making it in every step then takes a fifth of the time
class StepTraffic:
    """One rank's part in one step.

    Bytes are those handed to the backend: packed messages, and the lengths that accompany those
    whose size only the sender knows; the framing of the network comes on top.

    Attributes:
        index: The step's number in the whole schedule.
        bytes_sent: Bytes of all messages sent.
        bytes_received: Bytes of all messages received.
        messages_sent: Number of messages sent.
        start_s: Seconds from the run's beginning to the step's.
        duration_s: Seconds of the step, packing and merging included.
        wait_s: Of these, seconds blocked waiting for peers.
    """

    index: int
    bytes_sent: int
    bytes_received: int
    messages_sent: int
    start_s: float
    duration_s: float
    wait_s: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """One rank's part in one run.

    Attributes:
        steps: The steps in which the rank did something, in order; those of the second pass of a
            sum in two passes follow those of the first.
        duration_s: Seconds from beginning to end.
    """

    steps: tuple[StepTraffic, ...]
    duration_s: float

    def __repr__(self) -> str:
        sent, received = bytes_text(self.bytes_sent), bytes_text(self.bytes_received)
        return (
            f"Traffic({len(self.steps)} steps, {sent} sent, {received} received, "
            f"{seconds_text(self.duration_s)})"
        )

    @property
    def bytes_sent(self) -> int:
        """Bytes sent in all steps."""
        return sum(step.bytes_sent for step in self.steps)

    @property
    def bytes_received(self) -> int:
        """Bytes received in all steps."""
        return sum(step.bytes_received for step in self.steps)

    @property
    def messages_sent(self) -> int:
        """Messages sent in all steps."""
        return sum(step.messages_sent for step in self.steps)

    @property
    def wait_s(self) -> float:
        """Seconds blocked waiting for peers."""
        return sum(step.wait_s for step in self.steps)

    @property
    def communicate_s(self) -> float:
        """Seconds of this rank's own work: packing, posting, copying, merging.

        On a GPU packing and merging are only launched here; their time shows up as waiting.
        """
        return self.duration_s - self.wait_s
