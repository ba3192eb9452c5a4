"""Numbers with units, as typed."""

import pytest

from dgc_topo.results.units import bytes_text, seconds_text
from dgc_topo.units import bytes_from, rate_from, seconds_from


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (bytes_from, "0B", 0),
        (bytes_from, "100MiB", 100 * 2**20),
        (bytes_from, " 1.5 GB ", 1.5e9),
        (bytes_from, "1_000kB", 1e6),
        (bytes_from, "1e3B", 1e3),
        (bytes_from, ".5KiB", 512),
        (rate_from, "125MB/s", 125e6),
        (rate_from, "1Gbit/s", 125e6),
        (rate_from, "2 GiB/s", 2.0**31),
        (rate_from, "800bit/s", 100),
        (seconds_from, "50us", 50e-6),
        (seconds_from, "50µs", 50e-6),
        (seconds_from, "1.5 ms", 1.5e-3),
        (seconds_from, "0s", 0),
        (seconds_from, "7ns", 7e-9),
    ],
)
def test_a_number_with_a_unit(read, text, value):
    assert read(text, "--x") == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("read", "text", "says"),
    [
        (bytes_from, "100", "--x '100': no unit, expected a size such as 100MiB; units: B, kB, MB"),
        (bytes_from, "100mib", r"unknown unit 'mib' \(did you mean 'MiB'\?\)"),
        (bytes_from, "100MB/s", "unknown unit 'MB/s', expected a size"),
        (bytes_from, "-1MiB", "--x '-1MiB': negative, expected a size such as 100MiB, 0 or more"),
        (bytes_from, "1e999B", "too large"),
        (bytes_from, "many", "not a number with a unit"),
        (bytes_from, "", "not a number with a unit"),
        (bytes_from, "nanB", "not a number with a unit"),
        (rate_from, "0MB/s", "--x '0MB/s': expected a bandwidth above 0"),
        (rate_from, "-1MB/s", "negative"),
        (rate_from, "10Gb/s", "unknown unit 'Gb/s'"),
        (rate_from, "10MB", "unknown unit 'MB', expected a bandwidth such as 125MB/s or 1Gbit/s"),
        (seconds_from, "50", "no unit, expected a time such as 50us; units: s, ms, us, ns"),
        (seconds_from, "-1s", "negative"),
        (seconds_from, "1 h", "unknown unit 'h'"),
    ],
)
def test_nonsense_names_what_was_given_and_what_was_expected(read, text, says):
    with pytest.raises(ValueError, match=says):
        read(text, "--x")


def test_what_reports_print_can_be_typed():
    assert bytes_from(bytes_text(1.31e6), "--x") == 1.31e6
    assert seconds_from(seconds_text(12.3e-6), "--x") == pytest.approx(12.3e-6)
