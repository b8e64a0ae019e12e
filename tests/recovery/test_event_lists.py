"""Event lists of BMCs as texts: entries that belong together, lists that stand newest first, and what a status says."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.recovery.bmc_evidence import read_bmc, read_event_log
from metalserve.recovery.evidence import Evidence
from metalserve.recovery.newest_first import in_order_of_time
from metalserve.recovery.reading import evidence_of
from metalserve.recovery.verdict import Verdict, judge

SPIKE = (
    "2020-04-09 11:14:06  84  CPU 2 temperature is greater than the upper critical threshold.",
    "2020-04-09 11:14:11  85  CPU 2 temperature is within range.",
)
NO_POWER = (
    'Jan 08 02:27:58 s7tk power-control[4462]: Host0: Moving to "Wait for Power Supply Power OK" state',
    'Jan 08 02:28:58 s7tk power-control[4462]: Host0: Moving to "Off" state',
)
STATUS = "Uncorrectable Machine Check Exception (Processor 2, APIC ID 0x44, Bank 0x00, Status 0x{}'000F0005, Misc 0x0)"


def told(*lines: str) -> Verdict:
    return judge(Evidence(bmc=read_event_log("\n".join(lines))))


def test_a_host_that_gets_no_power_is_named_and_what_its_post_says_beside_it_is_not() -> None:
    hung = "62bf | 01/08/2026 | 02:28:05 MST | Processor UBB3_ASIC0_Stat | FRB2/Hang in POST failure | Asserted"
    causes = {cause.id: cause.explained_by for cause in told(*NO_POWER, hung).causes}
    assert causes == {"board-power": "", "cpu-fault": "board-power"}


def test_a_host_that_is_switched_off_had_power() -> None:
    on = NO_POWER[0].replace("Wait for Power Supply Power OK", "Wait for SIO Power Good")
    assert read_event_log(NO_POWER[1]) is not None
    assert told(NO_POWER[1]).causes == ()
    assert told(NO_POWER[0], on, NO_POWER[1]).causes == ()


@pytest.mark.parametrize("entry", [*NO_POWER, *SPIKE], ids=lambda line: line[-24:])
def test_an_entry_tells_nothing_without_the_ones_around_it_unless_it_is_bad_by_itself(entry: str) -> None:
    assert {cause.id for cause in told(entry).causes} == ({"overheated"} if entry == SPIKE[0] else set())


def test_a_list_that_stands_newest_first_is_read_in_the_order_of_time() -> None:
    assert told(*SPIKE).causes == ()
    assert told(*reversed(SPIKE)).causes == ()


def test_what_is_hot_again_is_not_over() -> None:
    again = SPIKE[0].replace("11:14:06  84", "11:15:06  86")
    assert told(*SPIKE, again).rung == "quarantine"
    assert told(again, *reversed(SPIKE)).rung == "quarantine"


def test_another_processor_is_not_cooled_by_it() -> None:
    assert told(SPIKE[0], SPIKE[1].replace("CPU 2", "CPU 1")).rung == "quarantine"


@pytest.mark.parametrize("newest_first", [False, True])
def test_entries_of_one_second_are_read_in_the_order_of_their_list(newest_first: bool) -> None:
    fan = {"at": 50.0, "severity": "Warning", "message": "Fan 5 | Fault detected | Asserted"}
    hot, over = ({"at": 100.0, "severity": "Critical", "message": line} for line in SPIKE)
    items = [over, hot, fan] if newest_first else [fan, hot, over]
    bmc = read_bmc({"bmc-events.json": json.dumps({"items": items})})
    assert [cause.id for cause in judge(Evidence(bmc=bmc)).causes] == ["fan-failed"]


def test_a_journal_that_stands_newest_first_is_turned_too() -> None:
    lines = (
        "2026-11-26T10:00:00+0000 node kernel: nfs: server store1 not responding, still trying",
        "2026-11-26T10:00:09+0000 node kernel: nfs: server store1 OK",
    )
    for text in ("\n".join(lines), "\n".join(reversed(lines))):
        assert judge(evidence_of([("log", [("journal.txt", text)])])).causes == ()


@pytest.mark.parametrize("first", "89CD")
def test_a_machine_check_whose_status_says_corrected_is_corrected(first: str) -> None:
    line = STATUS.format(f"{first}0000040")
    for verdict in (told(line), judge(Evidence(kernel=line))):
        assert ([cause.id for cause in verdict.causes], verdict.rung) == (["cpu-corrected"], "nothing")


@pytest.mark.parametrize("first", "ABEF")
def test_a_machine_check_whose_status_says_uncorrected_is_not(first: str) -> None:
    line = STATUS.format(f"{first}2000040")
    for verdict in (told(line), judge(Evidence(kernel=line))):
        assert ([cause.id for cause in verdict.causes], verdict.rung) == (["cpu-fault"], "power-cycle")


@pytest.mark.parametrize(
    "lines",
    [
        ("[  900.000000] b", "[    1.000000] a"),  # seconds since boot: a reboot lies between
        ("2026-01-02 10:00:00 b", "2026-01-02 09:00:00 a", "2026-01-02 09:30:00 c"),
        ("2026-01-02 10:00:00 a", "2026-01-02 10:00:00 b"),
        ("Dec 31 23:59:59 host a", "Jan  1 00:00:01 host b"),
        ("01/02/2026 | 10:00:00 | a", "02/01/2026 | 10:00:00 | b"),  # rises by one order of day and month
        ("2026-01-02 10:00:00 a", "Jan 01 10:00:00 host b"),
        ("no stamp", "at all"),
    ],
    ids=lambda lines: lines[0],
)
def test_what_does_not_fall_everywhere_is_left_as_it_is(lines: tuple[str, ...]) -> None:
    assert in_order_of_time("\n".join(lines)) == "\n".join(lines)


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        ("85 | 04/09/2020 | 11:14:11 | b", "84 | 04/09/2020 | 11:14:06 | a"),
        ("31/01/2026 11:14 b", "02/01/2026 11:14 a"),
        ("Jan  8 02:28:58 host b", "Jan  7 02:27:58 host a"),
        ("2026-01-02T10:00:01Z b", "2026-01-02T10:00:00Z a"),
    ],
)
def test_entries_keep_the_lines_that_follow_them(newer: str, older: str) -> None:
    text = "\n".join(["title", newer, "  of b", older, "  of a"])
    assert in_order_of_time(text) == "\n".join(["title", older, "  of a", newer, "  of b"])


@given(st.lists(st.integers(0, 86_399), min_size=2, max_size=12))
def test_a_list_is_turned_when_it_falls_and_only_then(seconds: list[int]) -> None:
    lines = [f"2026-01-02 {s // 3600:02}:{s // 60 % 60:02}:{s % 60:02} {n}" for n, s in enumerate(seconds)]
    falls = all(b <= a for a, b in pairwise(seconds)) and seconds[0] > seconds[-1]
    assert in_order_of_time("\n".join(lines)).split("\n") == (lines[::-1] if falls else lines)


@pytest.mark.parametrize(
    "line",
    [
        "pci 0000:00:1f.5: BAR 0: error updating (0xfe010000 != 0x00000000)",  # a register that keeps another value
        "pci 0000:00:1f.6: unknown header type 0d, ignoring device",
        "Memory failure: 0x1234567: soft_offline_page: page already poisoned",
        "NVRM: failed to register with the ACPI subsystem!",
    ],
)
def test_a_hint_that_has_an_innocent_reading_is_no_sign(line: str) -> None:
    assert judge(Evidence(kernel=f"[ 1.000000] {line}"), guess=False).causes == ()


@pytest.mark.parametrize(
    ("row", "bad"),
    [
        ("CATERR           | 0x00              | ok", "CATERR | 0x01 | cr"),
        ("P1 CATERR        | 5Ah | ok  | 34.1 |", "P1 CATERR | 5Ah | ok | 34.1 | State Asserted"),
        ("PSU1 Fail | 0x0 | discrete   | 0x0080| na  | na", "PSU1 Fail | 0x1 | discrete   | 0x0180| na  | na"),
        ("1 | 11/26/2026 | 10:00:00 | Voltage VBAT | Lower Critical going low | Asserted",
         "1 | 11/26/2026 | 10:00:00 | Voltage P12V | Lower Critical going low | Asserted"),
    ],
)  # fmt: skip
def test_the_name_of_a_sensor_that_is_well_is_no_sign_and_a_coin_cell_is_no_rail(row: str, bad: str) -> None:
    assert read_event_log(row) is None
    assert len(told(bad).causes) == 1
