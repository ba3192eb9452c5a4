"""What a lab may be: names, limits, and a JSON form with an inverse."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.workers.lab import LabChange, LabSpec
from dgc_topo.workers.lab.spec import burst_bytes, queue_bytes

rates = st.none() | st.floats(1e6, 3e10)
changes = st.builds(
    LabChange,
    at_s=st.floats(0, 100),
    host=st.integers(0, 3),
    action=st.just("rate"),
    rate_bits_per_s=rates,
) | st.builds(
    LabChange,
    at_s=st.floats(0, 100),
    host=st.integers(0, 3),
    action=st.sampled_from(["cut", "restore"]),
)
specs = st.builds(
    LabSpec,
    num_hosts=st.integers(4, 64),
    rate_bits_per_s=rates,
    host_rates_bits_per_s=st.dictionaries(st.integers(0, 3), rates, max_size=3),
    queue_s=st.floats(1e-3, 0.5),
    congestion_control=st.sampled_from([None, "cubic", "reno"]),
    ranks_per_host=st.integers(1, 4),
    changes=st.lists(changes, max_size=3).map(tuple),
    time_scale=st.floats(1, 100),
)


@given(specs)
def test_json_has_an_inverse(spec: LabSpec):
    assert LabSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@given(specs)
def test_a_scaled_lab_is_named_so(spec: LabSpec):
    assert spec.name.startswith("scaled 1:") == (spec.time_scale > 1)


def test_names_say_what_is_special():
    assert LabSpec(num_hosts=4).name == "lab unshaped"
    spec = LabSpec(
        num_hosts=4,
        rate_bits_per_s=100e6,
        host_rates_bits_per_s={3: 10e6},
        time_scale=10,
        changes=(LabChange(at_s=1, host=0, action="cut"),),
    )
    assert spec.name == "scaled 1:10 lab 100 Mbit/s, host 3 at 10 Mbit/s, 1 link changes"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_hosts": 0}, "lab: num_hosts 0, expected a whole number from 1 to 64"),
        ({"num_hosts": 65}, "lab: num_hosts 65, expected a whole number from 1 to 64"),
        ({"rate_bits_per_s": 1e5}, "lab: rate_bits_per_s: rate 100 kbit/s, expected 1 Mbit/s to"),
        ({"rate_bits_per_s": 1e11}, "rate 100 Gbit/s, expected 1 Mbit/s to 34.36 Gbit/s"),
        ({"host_rates_bits_per_s": {2: 1e7}}, "host 2, expected a number from 0 to 1"),
        ({"host_rates_bits_per_s": {1: 1}}, r"host_rates_bits_per_s\[1\]: rate 1 bit/s"),
        ({"queue_s": 0}, "lab: queue_s 0, expected above 0"),
        ({"queue_s": float("nan")}, "lab: queue_s nan, expected above 0"),
        (
            {"queue_s": 1, "rate_bits_per_s": 20e9},
            "lab: rate_bits_per_s: rate 20 Gbit/s with queue_s 1: a full queue holds "
            "2,500,000,000 bytes, expected at most 2,147,483,647",
        ),
        ({"queue_s": 1, "host_rates_bits_per_s": {1: 20e9}}, r"host_rates_bits_per_s\[1\]: rate"),
        (
            {
                "queue_s": 1,
                "changes": (LabChange(at_s=0, host=1, action="rate", rate_bits_per_s=20e9),),
            },
            r"lab: changes\[0\]: rate 20 Gbit/s with queue_s 1",
        ),
        ({"congestion_control": ""}, "lab: congestion_control '', expected a name such as 'cubic'"),
        ({"time_scale": 0.5}, "lab: time_scale 0.5, expected 1 or more"),
        ({"ranks_per_host": 0}, "lab: ranks_per_host 0"),
        ({"changes": (LabChange(at_s=0, host=7, action="cut"),)}, "changes: host 7"),
    ],
)
def test_impossible_labs_are_refused(values, says):
    with pytest.raises(ValueError, match=says):
        LabSpec(**{"num_hosts": 2, **values})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"at_s": -1.0, "action": "cut"}, "at -1.0 s, expected 0 or later"),
        ({"at_s": 1.0, "action": "burn"}, "action 'burn', expected 'rate', 'cut' or 'restore'"),
        ({"at_s": 1.0, "action": "cut", "rate_bits_per_s": 1e7}, "'cut' takes no rate"),
        ({"at_s": 1.0, "action": "rate", "rate_bits_per_s": 1.0}, "link change: rate 1 bit/s"),
    ],
)
def test_impossible_changes_are_refused(values, says):
    with pytest.raises(ValueError, match=says):
        LabChange(host=0, **values)


@given(st.floats(1e6, 3e10))
def test_shapers_hold_whole_frames(rate: float):
    assert burst_bytes(rate) >= 2 * 1514
    assert queue_bytes(rate, 0.001) >= 16 * 1514
    assert queue_bytes(rate, 1.0) >= rate / 8
