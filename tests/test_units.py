"""Numbers with units, as typed."""

import re

import pytest

from dgc_topo.units import (
    bytes_from,
    bytes_text,
    fraction_from,
    rate_from,
    seconds_from,
    seconds_text,
)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (bytes_from, "0B", 0),
        (bytes_from, "100MiB", 100 * 2**20),
        (bytes_from, " 1.5 GB ", 1.5e9),
        (bytes_from, "1_000kB", 1e6),
        (bytes_from, "1e3B", 1e3),
        (bytes_from, ".5KiB", 512),
        (bytes_from, "1024", 1024),
        (bytes_from, "1_000", 1000),
        (bytes_from, "1\u00a0GB", 1e9),
        (bytes_from, "-0", 0),
        (rate_from, "125000000", 125e6),
        (rate_from, "1Gb/s", 125e6),
        (rate_from, "1 Gbps", 125e6),
        (rate_from, "100Mbps", 12.5e6),
        (rate_from, "125MBps", 125e6),
        (rate_from, "1Gibit/s", 2.0**27),
        (seconds_from, "50\u03bcs", 50e-6),
        (seconds_from, "50\u00b5s", 50e-6),
        (fraction_from, "0.1%", 0.001),
        (fraction_from, " 0.7 % ", 0.007),
        (fraction_from, "1e-3", 0.001),
        (rate_from, "125MB/s", 125e6),
        (rate_from, "1Gbit/s", 125e6),
        (rate_from, "2 GiB/s", 2.0**31),
        (rate_from, "800bit/s", 100),
        (seconds_from, "50us", 50e-6),
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
        (bytes_from, "100mib", r"unknown unit 'mib' \(did you mean 'MiB'\?\)"),
        (bytes_from, "1KB", r"unknown unit 'KB' \(did you mean 'kB'\?\), expected a size such as"),
        (bytes_from, "1 h", "unknown unit 'h', expected a size such as 100MiB; units: B, kB, MB"),
        (bytes_from, "1e400", "--x '1e400': too large, expected a size such as 100MiB, 0 or more"),
        (bytes_from, "1__0kB", "--x '1__0kB': not a number with a unit, expected a size"),
        (bytes_from, "1_", "not a number with a unit"),
        (bytes_from, "_1", "not a number with a unit"),
        (bytes_from, "1,5GB", "not a number with a unit"),
        (bytes_from, "-1", "--x '-1': negative"),
        (rate_from, "nan", "not a number with a unit"),
        (rate_from, "0", "expected a bandwidth above 0"),
        (fraction_from, "1%%", "--x '1%%': expected a fraction such as 0.001 or 0.1%"),
        (fraction_from, "%", "expected a fraction"),
        (fraction_from, "", "--x '': expected a fraction"),
        (fraction_from, "five", "expected a fraction"),
        (bytes_from, "100MB/s", "unknown unit 'MB/s', expected a size"),
        (bytes_from, "-1MiB", "--x '-1MiB': negative, expected a size such as 100MiB, 0 or more"),
        (bytes_from, "1e999B", "too large"),
        (bytes_from, "many", "not a number with a unit"),
        (bytes_from, "", "not a number with a unit"),
        (bytes_from, "nanB", "not a number with a unit"),
        (rate_from, "0MB/s", "--x '0MB/s': expected a bandwidth above 0"),
        (rate_from, "-1MB/s", "negative"),
        (rate_from, "10MB", "unknown unit 'MB', expected a bandwidth such as 125MB/s or 1Gbit/s"),
        (seconds_from, "50", "no unit, expected a time such as 50us; units: s, ms, us, ns"),
        (seconds_from, "-1s", "negative"),
        (seconds_from, "1 h", "unknown unit 'h'"),
    ],
)
def test_nonsense_names_what_was_given_and_what_was_expected(read, text, says):
    with pytest.raises(ValueError, match=says):
        read(text, "--x")


HINT = re.compile(r"did you mean '?([0-9.]*)(\w+)")


@pytest.mark.parametrize("prefix", ["", "k", "M", "G", "T", "Ki", "Mi"])
def test_bits_and_bytes_are_never_mistaken_for_each_other(prefix):
    """Bits are read as bits where rates are meant, and converted in what is suggested for sizes."""
    as_bytes = bytes_from(f"8{prefix}B", "--x")
    for unit in ("bit/s", "b/s", "bps"):
        assert rate_from(f"64{prefix}{unit}", "--x") == as_bytes
    for unit in ("B/s", "Bps"):
        assert rate_from(f"8{prefix}{unit}", "--x") == as_bytes
    for unit in (f"{prefix}b", f"{prefix}bit"):
        with pytest.raises(ValueError, match=f"unknown unit '{unit}' .bits: did you mean") as said:
            bytes_from(f"64{unit}", "--x")
        ((number, meant),) = HINT.findall(str(said.value))
        assert bytes_from(f"{number}{meant}", "--x") == as_bytes


@pytest.mark.parametrize(
    ("read", "unit", "hints"),
    [
        (rate_from, "mbps", "'MBps' (bytes) or 'Mbps' (bits)"),
        (rate_from, "GB/S", "'GB/s' (bytes) or 'Gb/s' (bits)"),
        (rate_from, "gb/s", "'GB/s' (bytes) or 'Gb/s' (bits)"),
        (rate_from, "KB/s", "'kB/s'"),
        (rate_from, "Kb/s", "'kb/s'"),
        (rate_from, "gbit/s", "'Gbit/s'"),
        (bytes_from, "gb", "'GB'"),
        (bytes_from, "Kb", "0.125kB, so many bytes, or 1kB"),
        (seconds_from, "US", "'us'"),
    ],
)
def test_a_unit_in_the_wrong_case_is_suggested_without_a_change_of_factor(read, unit, hints):
    with pytest.raises(ValueError, match="did you mean") as said:
        read(f"1{unit}", "--x")
    assert f"did you mean {hints}?" in str(said.value)


def test_what_reports_print_can_be_typed():
    assert bytes_from(bytes_text(1.31e6), "--x") == 1.31e6
    assert seconds_from(seconds_text(12.3e-6), "--x") == pytest.approx(12.3e-6)
