"""What a run tells gets to who listens, whatever the numbers."""

import json
import math

import pytest

from dgc_topo.training.launch import Evaluated, StepDone, read_event


@pytest.mark.parametrize("value", [0.5, math.inf, -math.inf])
def test_events_survive_json(value):
    """A perplexity is infinite from a loss of 710 on."""
    for event in (
        Evaluated(job=1, epoch=2, metric="perplexity", value=value),
        StepDone(job=0, step=1, total_steps=2, loss=value),
    ):
        assert read_event(json.loads(event.model_dump_json())) == event
