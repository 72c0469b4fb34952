"""Text with a unit to a number: prefixes, refusals, exact clocks, and numbers for people."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemvane.sim.units import DIMENSIONS, cycles_to_ps, cycles_to_ps_all, parse, ps_to_s, show

SECONDS_IN_106_DAYS = (2**63 - 1) // 10**12


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("80 GB", "size", 80 * 10**9),
        ("80 GiB", "size", 80 * 2**30),
        ("1 KiB", "size", 1024),
        ("1 kB", "size", 1000),
        ("1 KB", "size", 1000),
        ("64 B", "size", 64),
        ("3.35 TB/s", "bandwidth", 3_350_000_000_000),
        ("1 GiB/s", "bandwidth", 2**30),
        ("8 Gb/s", "bandwidth", 10**9),  # bits there, bytes inside
        ("6.4 Gb/s", "pin rate", 6_400_000_000),  # bits there, bits inside
        ("6.4 Gbit/s", "pin rate", 6_400_000_000),
        ("1.05 GHz", "frequency", 1_050_000_000),
        ("940 MHz", "frequency", 940_000_000),
        ("14 ns", "time", 14_000),
        ("2.44 us", "time", 2_440_000),
        ("1 s", "time", 10**12),
        ("989.4 TFLOP/s", "compute rate", 989_400_000_000_000),
        ("1978.9 TOPS", "compute rate", 1_978_900_000_000_000),
        ("0.59 pJ", "energy", 0.59),
        ("1 nJ", "energy", 1000.0),
        ("3.9 pJ/bit", "energy per bit", 3.9),
        ("8 pJ/B", "energy per bit", 1.0),
        ("8 pJ/byte", "energy per bit", 1.0),
        ("4 fJ/b", "energy per bit", 0.004),
        ("700 W", "power", 700.0),
        ("66 mW", "power", 0.066),
        ("814 mm2", "area", 814.0),
        ("7 nm", "length", 7.0),
        ("88 %", "fraction", 0.88),
    ],
)
def test_a_text_is_its_number_in_the_inside_unit(text: str, dimension: str, value: float) -> None:
    assert parse(text, dimension) == value


def test_gb_is_not_gib() -> None:
    assert parse("1 GiB", "size") - parse("1 GB", "size") == 73_741_824


def test_a_byte_rate_is_eight_times_a_bit_rate() -> None:
    assert parse("1 GB/s", "bandwidth") == 8 * parse("1 Gb/s", "bandwidth")


@pytest.mark.parametrize("name", DIMENSIONS)
def test_every_dimension_parses_its_own_example(name: str) -> None:
    value = parse(DIMENSIONS[name].example, name)
    assert value > 0
    assert isinstance(value, int if DIMENSIONS[name].whole else float)


@pytest.mark.parametrize("text", ["3.35e12 B/s", "3.35E+12 B/s", "3_350 GB/s", "3.35TB/s", "  3.35   TB/s ", "+3.35 TB/s", "3350. GB/s"])
def test_one_number_may_be_written_in_many_ways(text: str) -> None:
    assert parse(text, "bandwidth") == 3_350_000_000_000


def test_a_number_under_one_may_start_with_its_point() -> None:
    assert parse(".5 GB", "size") == 500_000_000
    assert parse("1e-3 ns", "time") == 1


@pytest.mark.parametrize(
    ("text", "dimension", "message"),
    [
        ("3.35", "bandwidth", "'3.35' has no unit. Expected a bandwidth, e.g. '3.35 TB/s'."),
        (3.35, "bandwidth", "3.35 has no unit. Expected a bandwidth, e.g. '3.35 TB/s'."),
        (80, "size", "80 has no unit. Expected a size, e.g. '80 GB'."),
        (None, "size", "None has no unit. Expected a size, e.g. '80 GB'."),
        (True, "size", "True has no unit. Expected a size, e.g. '80 GB'."),
        ("3.35 TB", "bandwidth", "'3.35 TB' has the wrong unit 'TB'. Expected a bandwidth, e.g. '3.35 TB/s'."),
        ("80 Gb", "size", "'80 Gb' has the wrong unit 'Gb'. Expected a size, e.g. '80 GB'."),
        ("80 gb", "size", "'80 gb' has the wrong unit 'gb'. Expected a size, e.g. '80 GB'."),
        ("1 GiHz", "frequency", "'1 GiHz' has the wrong unit 'GiHz'. Expected a frequency, e.g. '1.05 GHz'."),
        ("5 GB GB", "size", "'5 GB GB' has the wrong unit 'GB GB'. Expected a size, e.g. '80 GB'."),
        ("1,5 GB", "size", "'1,5 GB' has the wrong unit ',5 GB'. Expected a size, e.g. '80 GB'."),
        ("0.44 pJ", "energy per bit", "'0.44 pJ' has the wrong unit 'pJ'. Expected an energy per bit, e.g. '0.44 pJ/bit'."),
        ("0.44 pJ/bit", "energy", "'0.44 pJ/bit' has the wrong unit 'pJ/bit'. Expected an energy, e.g. '0.44 pJ'."),
        ("GB", "size", "'GB' does not start with a number. Expected a size, e.g. '80 GB'."),
        ("", "size", "'' does not start with a number. Expected a size, e.g. '80 GB'."),
        ("inf GB", "size", "'inf GB' does not start with a number. Expected a size, e.g. '80 GB'."),
        ("nan W", "power", "'nan W' does not start with a number. Expected a power, e.g. '700 W'."),
        ("\u0663 GB", "size", "'\u0663 GB' does not start with a number. Expected a size, e.g. '80 GB'."),
        ("-3 W", "power", "'-3 W' is negative. Expected a power, e.g. '700 W'."),
        ("-80 GB", "size", "'-80 GB' is negative. Expected a size, e.g. '80 GB'."),
        ("0.4 B", "size", "'0.4 B' is under one byte. Expected a size, e.g. '80 GB'."),
        ("0.1 ps", "time", "'0.1 ps' is under one picosecond. Expected a time, e.g. '14 ns'."),
    ],
)
def test_a_text_that_is_no_such_quantity_is_refused_with_a_wish(text: object, dimension: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text, dimension)
    assert str(caught.value) == message


def test_an_exponent_of_a_thousand_digits_does_not_stop_the_reader() -> None:
    with pytest.raises(ValueError, match="wrong unit"):
        parse("1e999999999999 GB", "size")


@given(st.integers(1, 10**9), st.sampled_from(["k", "M", "G", "T"]))
def test_decimals_are_exact_and_not_floats(thousandths: int, prefix: str) -> None:
    power = {"k": 3, "M": 6, "G": 9, "T": 12}[prefix]
    text = f"{thousandths // 1000}.{thousandths % 1000:03d} {prefix}B"
    assert parse(text, "size") == thousandths * 10 ** (power - 3)


def test_a_cycle_is_rounded_up_to_a_picosecond_once() -> None:
    assert cycles_to_ps(1, 940_000_000) == 1064  # 1063.83
    assert cycles_to_ps(940_000_000, 940_000_000) == 10**12  # not 940e6 x 1064
    assert cycles_to_ps(0, 1) == 0
    assert cycles_to_ps(3, 10**12) == 3


@given(st.integers(0, 2**80), st.integers(1, 10**13))
def test_picoseconds_are_the_smallest_that_hold_the_cycles(cycles: int, freq_hz: int) -> None:
    ps = cycles_to_ps(cycles, freq_hz)
    assert (ps - 1) * freq_hz < cycles * 10**12 <= ps * freq_hz


@given(st.data(), st.integers(1, 9 * 10**12))
def test_a_column_of_cycles_converts_as_each_cell_does(data: st.DataObject, freq_hz: int) -> None:
    most = min(2**62, freq_hz * (SECONDS_IN_106_DAYS - 1))
    cycles = data.draw(st.lists(st.one_of(st.integers(0, most), st.sampled_from([0, 1, most - 1, most])), min_size=1, max_size=20))
    column = cycles_to_ps_all(np.array(cycles, np.int64), freq_hz)
    assert column.dtype == np.int64
    assert column.tolist() == [cycles_to_ps(c, freq_hz) for c in cycles]


@pytest.mark.parametrize("freq_hz", [1, 3, 940_000_000, 1_830_000_000, 8_999_999_999_999])
def test_the_longest_times_that_int64_holds_are_exact(freq_hz: int) -> None:
    most = min(2**63 - 1, freq_hz * SECONDS_IN_106_DAYS - 1)
    assert cycles_to_ps_all(np.array([most], np.int64), freq_hz).tolist() == [cycles_to_ps(most, freq_hz)]


def test_a_time_over_106_days_is_refused_and_never_wraps() -> None:
    assert cycles_to_ps(2**62, 10**9) == 2**62 * 1000 > 2**63
    with pytest.raises(OverflowError, match="more than the 106 days"):
        cycles_to_ps_all(np.array([1, 2**62], np.int64), 10**9)


def test_an_empty_column_of_cycles_stays_empty() -> None:
    assert cycles_to_ps_all(np.zeros(0, np.int64), 10**9).size == 0


def test_a_million_million_picoseconds_are_a_second() -> None:
    assert ps_to_s(10**12) == 1.0


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "s", "0 s"),
        (0.0123, "s", "12.3 ms"),
        (5, "s", "5.00 s"),
        (999.4, "s", "999 s"),
        (999.6, "s", "1.00 ks"),
        (0.9996, "s", "1.00 s"),
        (-0.5, "W", "-500 mW"),
        (3.35e12, "B/s", "3.35 TB/s"),
        (989.43e12, "FLOP/s", "989 TFLOP/s"),
        (2.5e-12, "J", "2.50 pJ"),
    ],
)
def test_three_digits_and_a_prefix_are_shown(value: float, unit: str, text: str) -> None:
    assert show(value, unit) == text


def test_more_digits_are_shown_when_asked() -> None:
    assert show(989.43e12, "OP/s", 4) == "989.4 TOP/s"


@given(st.floats(1e-11, 1e16))
def test_what_is_shown_is_within_half_a_percent_of_the_value(value: float) -> None:
    number, unit = show(value, "B").split()
    scale = {"": 1.0, **{p: 10.0 ** (3 * i - 12) for i, p in enumerate("pnum")}, **{p: 10.0 ** (3 * i + 3) for i, p in enumerate("kMGTP")}}
    assert float(number) * scale[unit.removesuffix("B")] == pytest.approx(value, rel=0.0051)
