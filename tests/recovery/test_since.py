"""What is from before the last recovery never acts again; what nobody can date counts as new."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from metalserve.cli.diagnose import command
from metalserve.recovery.evidence import Evidence
from metalserve.recovery.reading import evidence_of
from metalserve.recovery.since import after, now_of, time_of, zero_of, zone_of
from metalserve.recovery.verdict import judge

BOOT = datetime(2026, 11, 26, 10, 0, 0, tzinfo=UTC).timestamp()
CLOCK = f"{BOOT + 5000}\n11111111-2222\n123\n[ 4000.500000] last line\n2026-11-26T12:06:40,500000+01:00 last line\n"
GONE = "NVRM: Xid (PCI:0000:09:00): 79, pid=0, GPU has fallen off the bus."
EAST = timezone(timedelta(hours=8))


@pytest.mark.parametrize(
    ("line", "at"),
    [
        (f"[  100.250000] {GONE}", BOOT + 100.25),
        (f"<3>[  100.250000] {GONE}", BOOT + 100.25),
        (f"4,1234,100250000,-;{GONE}", BOOT + 100.25),
        (f"[Thu Nov 26 18:01:40 2026] {GONE}", BOOT + 100),
        (f"2026-11-26T10:01:40+00:00 host kernel: {GONE}", BOOT + 100),
        (f"2026-11-26T10:01:40Z host kernel: {GONE}", BOOT + 100),
        (f"2026-11-26T10:01:40,500000+00:00 {GONE}", BOOT + 100.5),
        (f"2026-11-26T11:01:40+0100 host kernel: {GONE}", BOOT + 100),
        (f"2026-11-26 18:01:40 {GONE}", BOOT + 100),
        (f"kern  :warn  : 2026-11-26T10:01:40,000000+00:00 {GONE}", BOOT + 100),
        ("[Nov 26 2026 18:01:40] [ERROR] [tid 841] detected NVSwitch fatal error", BOOT + 100),
        (f"Nov 26 10:01:40 host kernel: {GONE}", None),
        ("ERROR 11-26 10:01:40 [core.py:710] EngineCore encountered a fatal error.", None),
        (f"[  +0.000127] {GONE}", None),
        ("[Thu Nov 99 18:01:40 2026] x", None),
        ("2026-99-26T10:01:40 x", None),
        ("", None),
    ],
)
def test_stamps(line: str, at: float | None) -> None:
    assert time_of(line, BOOT, EAST) == at


def test_what_the_clock_of_a_bundle_tells() -> None:
    zero, zone = zero_of(CLOCK), zone_of(CLOCK)
    assert zero == pytest.approx(datetime(2026, 11, 26, 11, 6, 40, 500000, tzinfo=UTC).timestamp() - 4000.5)
    assert zone is not None and zone.utcoffset(None) == timedelta(hours=1)
    assert now_of(CLOCK) == BOOT + 5000
    assert (zero_of(""), zone_of("dmesg: permission denied"), now_of("no date")) == (None, None, 0.0)


@pytest.mark.parametrize(
    "stamp", ["[  100.250000]", "2026-11-26T10:01:40+00:00 host kernel:", "[Thu Nov 26 10:01:40 2026]"]
)
def test_an_event_from_before_never_acts_again(stamp: str) -> None:
    files = [("kernel.log", f"{stamp} {GONE}\n"), ("clock.txt", "")]
    clock = f"{BOOT + 900}\nid\n1\n[  500.000000] x\n2026-11-26T10:08:20,000000+00:00 x\n"
    files[1] = ("clock.txt", clock)
    assert judge(evidence_of([("b", files)])).rung == "reboot"
    assert judge(evidence_of([("b", files)], since=BOOT + 50)).rung == "reboot"
    assert judge(evidence_of([("b", files)], since=BOOT + 300)).rung == "nothing"


def test_what_cannot_be_dated_counts_as_new() -> None:
    for line in (GONE, f"Nov 26 10:01:40 host kernel: {GONE}", f"[  100.250000] {GONE}"):
        evidence = evidence_of([("b", [("kernel.log", line + "\n")])], since=BOOT + 10_000)
        assert judge(evidence).rung == "reboot", "no clock came with it"


def test_a_line_without_a_stamp_goes_with_the_one_before_it() -> None:
    old = "[  100.250000] NVRM: The NVIDIA GPU 0000:b3:00.0\n NVRM: (PCI ID: 10de:26b5) installed in this system has\n"
    old += " NVRM: fallen off the bus and is not responding to commands.\n"
    kept = after(Evidence(kernel=old + "[  900.000000] usb 1-1: new device\n"), BOOT + 500, BOOT)
    assert kept.kernel == "[  900.000000] usb 1-1: new device"
    assert judge(after(Evidence(kernel=old), BOOT + 50, BOOT)).rung == "reboot"


def test_engines_and_fabric_manager_are_cut_too_and_the_boot_before_is_not() -> None:
    line = "2026-11-26T10:01:40+00:00 EngineCore encountered a fatal error."
    evidence = Evidence(earlier=line, fabric=line, engines={"engine 0": line, "engine 1": "EngineCore encountered"})
    kept = after(evidence, BOOT + 500, None)
    assert (kept.earlier, kept.fabric) == (line, "")
    assert kept.engines == {"engine 0": "", "engine 1": "EngineCore encountered"}


@given(st.lists(st.tuples(st.integers(0, 10_000), st.booleans()), max_size=20), st.integers(1, 10_000))
def test_exactly_the_events_since_then_are_left(events: list[tuple[int, bool]], since: int) -> None:
    lines = [
        f"[{at:5}.000000] e{n}" if relative else f"{datetime.fromtimestamp(BOOT + at, UTC).isoformat()} e{n}"
        for n, (at, relative) in enumerate(events)
    ]
    kept = after(Evidence(kernel="\n".join(lines)), BOOT + since, BOOT).kernel or ""
    expected = [line for line, (at, _) in zip(lines, events, strict=True) if at >= since]
    assert kept.splitlines() == expected


@given(st.text(max_size=300), st.text(max_size=100))
def test_no_text_makes_it_fail(text: str, clock: str) -> None:
    kept = after(Evidence(kernel=text), BOOT, zero_of(clock), zone_of(clock))
    assert kept.kernel is not None
    for line in text.splitlines():
        time_of(line, BOOT)


@pytest.mark.parametrize(
    ("since", "rung"),
    [
        ("2026-11-26T10:00:00+00:00", "reboot"),
        ("2026-11-26T10:02:00Z", "nothing"),
        ("9000d", "reboot"),
        ("1m", "nothing"),
    ],
)
def test_diagnose_leaves_out_what_was_before(tmp_path: Path, since: str, rung: str) -> None:
    log = tmp_path / "kern.log"
    year = 2026 if since.startswith("2026") else 2020
    log.write_text(f"{year}-11-26T10:01:40+00:00 host kernel: {GONE}\n")
    result = CliRunner().invoke(command, [str(log), "--since", since, "--json"], standalone_mode=False)
    assert json.loads(result.output)["rung"] == rung


def test_diagnose_names_a_time_that_is_none(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path), "--since", "yesterday"])
    assert result.exit_code == 2
    assert "neither an age" in result.output
