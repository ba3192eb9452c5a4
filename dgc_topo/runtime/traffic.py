"""What a run of a schedule moved, and where its time went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)  # not frozen: it is made in a fifth of the time, in every step
class StepTraffic:
    """One rank's part in one step.

    Bytes are those handed to the backend: packed messages, and the lengths that accompany those
    whose size only the sender knows; the framing of the network comes on top.
    """

    index: int  #: the step's number in the whole schedule
    bytes_sent: int
    bytes_received: int
    messages_sent: int
    start_s: float  #: seconds since the run began
    duration_s: float  #: seconds, packing and merging included
    wait_s: float  #: of these, seconds blocked waiting for peers


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one rank did in one run.

    Attributes:
        steps: The steps in which the rank did something, in order.
        duration_s: Seconds from beginning to end.
    """

    steps: tuple[StepTraffic, ...]
    duration_s: float

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
