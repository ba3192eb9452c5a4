"""Records as a run or a validation could have left them, for tests that only read them."""

from typing import Any

from dgc_topo.experiments.validation.records import ValidationRow
from dgc_topo.records.measurement import Measurement, Phases

#: A step that is nothing but computing.
COMPUTING = Phases(compute_s=1, compress_s=0, communicate_s=0, wait_s=0, update_s=0)


def measurement(**known: Any) -> Measurement:
    """A measured dense run of two workers over a ring that computed for a second per step."""
    world_size = known.get("world_size", 2)
    usual = {
        "kind": "measured",
        "scenario": "invented",
        "machine": "invented",
        "topology": "ring",
        "world_size": world_size,
        "num_workers": world_size,
        "network": "invented",
        "workload": "w",
        "compression": "dense",
        "density": 1.0,
        "seed": 0,
        "batch_size_per_worker": 8,
        "num_steps": 10,
        "step_time_s": 1.0,
        "phases": COMPUTING,
        "samples_per_s": 8.0 * world_size,
        "gradient_bytes": 1000,
        "compressed_bytes": 1000,
        "wire_bytes_per_step": 1000,
        "messages_per_step": 1,
    }
    return Measurement.model_validate(usual | known)


def row(**known: Any) -> ValidationRow:
    """A validation's row of a dense ring of four."""
    usual = {
        "group": "collectives",
        "name": "ring",
        "world_size": 4,
        "payload": "dense",
        "num_bytes": 2e6,
        "bytes_sent": 3e6,
        "measured_s": 1.0,
        "spread": 0.01,
        "predicted_s": 1.1,
    }
    return ValidationRow.model_validate(usual | known)
