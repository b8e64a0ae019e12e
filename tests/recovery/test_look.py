"""One look: old events do not count, silence is no health, and what is blamed is known by its serial number."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.errors import MetalserveError
from metalserve.recovery.bundle import Token, tokens_of
from metalserve.recovery.look import Seen, no_driver, reset_of, see, serials_of, unpacked
from metalserve.recovery.since import zero_of

BOOTED = 1_795_600_000.0
SMI = """
==============NVSMI LOG==============

Driver Version                            : 580.178.04
Attached GPUs                             : 1

GPU 00000000:1B:00.0
    Product Name                          : NVIDIA H100 80GB HBM3
    Serial Number                         : 1654321009876
    GPU Recovery Action                   : None
"""
XID = "[  500.000000] NVRM: Xid (PCI:0000:4e:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
LATER = "[  900.000000] NVRM: Xid (PCI:0000:5d:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


def clock(last: str = "[ 1000.000000] x", iso: str = "2026-11-25T10:03:20,000000+00:00 x") -> str:
    return f"{BOOTED + 1000}\nboot-id\n4711\n{last}\n{iso}\n"


def bundle(**files: str) -> dict[str, str]:
    given = {name.replace("__", "-").replace("_", "."): text for name, text in files.items()}
    names = ["kernel.log", "smi-q.txt", *given]
    manifest = "".join(f"{name}\t0\t0.1\tx\n" for name in dict.fromkeys(names))
    return {"kernel.log": "", "smi-q.txt": SMI, "clock.txt": clock(), **given, "manifest.tsv": manifest}


def token(*lines: str) -> Token:
    return tokens_of({"token-0.txt": "\n".join(lines)})["engine 0"]


def test_an_event_from_before_the_last_recovery_never_acts_again() -> None:
    texts = bundle(kernel_log=f"{XID}\n{LATER}\n")
    assert zero_of(texts["clock.txt"]) == BOOTED
    both = see(texts)
    assert both.verdict.rung == "reboot" and {s.name for s in both.subjects} == {"0000:4e:00.0", "0000:5d:00.0"}
    late = see(texts, since=BOOTED + 700)
    assert [s.name for s in late.subjects] == ["0000:5d:00.0"]
    assert see(texts, since=BOOTED + 950).verdict.rung == "nothing"


def test_an_event_whose_time_is_not_known_counts() -> None:
    texts = {**bundle(kernel_log=XID), "clock.txt": clock(last="x", iso="x")}
    assert zero_of(texts["clock.txt"]) is None
    assert see(texts, since=BOOTED + 950).verdict.rung == "reboot"


def test_journal_lines_have_their_own_time() -> None:
    line = "2026-11-25T09:00:00+00:00 host kernel: " + XID.partition("] ")[2]
    texts = bundle(kernel_log=line)
    assert see(texts, since=BOOTED - 10_000).verdict.rung == "reboot"
    assert see(texts, since=BOOTED).verdict.rung == "nothing"


@given(st.lists(st.floats(0, 5000), min_size=1, max_size=20), st.floats(0, 6000))
def test_what_is_kept_is_what_is_late(stamps: list[float], since: float) -> None:
    from metalserve.recovery.evidence import Evidence
    from metalserve.recovery.since import after

    log = "\n".join(f"[{stamp:12.6f}] line {number}\n  goes on {number}" for number, stamp in enumerate(stamps))
    kept = after(Evidence(kernel=log), BOOTED + since, BOOTED).kernel or ""
    wanted = {number for number, stamp in enumerate(stamps) if BOOTED + float(f"{stamp:12.6f}") >= BOOTED + since}
    if since > 0:
        assert {n for n in range(len(stamps)) if f"line {n}\n" in f"{kept}\n"} == wanted
        assert {n for n in range(len(stamps)) if f"goes on {n}\n" in f"{kept}\n"} == wanted


def test_an_engine_is_asked_for_a_token_and_nothing_else_counts() -> None:
    assert token("unit active", "health 200", "completion 200", "tokens 1 2") == "token"
    assert token("unit active", "health 200", "completion 000", "tokens 5 5") == "silent"
    assert token("unit active", "health 200", "completion 000", "tokens 5 9") == "busy"
    assert token("unit active", "health 200", "completion 500", "tokens 5 5") == "no answer"
    assert token("unit active", "health 000", "completion 000", "tokens - -") == "no answer"
    assert token("unit failed", "health 000") == "down"
    assert token("unit activating") == "starting"
    assert token("unit active", "member") == "member"
    assert token() == "unknown"


@pytest.mark.parametrize(
    ("tokens", "serving"),
    [
        ({}, None),
        ({"engine 0": "token", "engine 1": "busy"}, True),
        ({"engine 0": "token", "engine 1": "starting"}, False),
        ({"engine 0": "token", "engine 1": "unknown"}, None),
        ({"engine 0": "silent", "engine 1": "unknown"}, False),
    ],
)
def test_a_host_serves_when_every_engine_does(tokens: dict[str, Token], serving: bool | None) -> None:
    assert Seen(see(bundle()).verdict, tokens).serving is serving


def test_a_silent_engine_is_a_hang_at_once() -> None:
    seen = see(bundle(token__0_txt="unit active\nhealth 200\ncompletion 000\ntokens 3 3"))
    assert (seen.verdict.rung, seen.verdict.causes[0].id) == ("restart-engine", "engine-hang")
    assert seen.subjects[0].kind == "engine" and seen.subjects[0].name == "engine 0"


def test_a_gpu_that_is_gone_keeps_the_serial_number_it_had() -> None:
    assert serials_of(SMI) == {"0000:1b:00.0": "1654321009876"}
    gone = {**bundle(kernel_log=LATER), "smi-q.txt": SMI}
    (subject,) = see(gone, known={"0000:5d:00.0": "42"}).subjects
    assert (subject.name, subject.serial) == ("0000:5d:00.0", "42")


@pytest.mark.parametrize(
    ("device", "together"), [("2330", "all"), ("26b9", "alone"), ("2941", "never"), ("ffff", "all")]
)
def test_how_gpus_are_reset_is_the_boards_word(device: str, together: str) -> None:
    found = reset_of(f"0000:1b:00.0 0302: 10de:{device} (rev a1)\n0000:c1:00.0 0680: 10de:22a3\n")
    assert found is not None and found.together == together
    assert reset_of("0000:00:00.0 0600: 8086:09a2\n") is None


UNLOADED = "cat: /proc/driver/nvidia/version: No such file or directory\n580.178.04\nnvidia/580.178.04: installed\n"
MUTE = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"


def test_a_driver_is_not_loaded_when_nothing_tells_of_it() -> None:
    assert no_driver({**bundle(driver_txt=UNLOADED), "smi-q.txt": MUTE})
    modules = "nvidia_uvm 2117632 0\nnvidia 14405632 4 nvidia_uvm\n580.178.04\n"
    assert not no_driver({**bundle(driver_txt=modules), "smi-q.txt": MUTE}), "its version was not there for a moment"
    assert not no_driver(bundle(driver_txt=UNLOADED)), "nvidia-smi speaks of it"
    assert not no_driver({**bundle(driver_txt="NVRM version: x 580.178.04\n"), "smi-q.txt": MUTE})


def test_what_was_not_read_does_not_show_that_the_driver_is_gone() -> None:
    assert not no_driver({**bundle(driver_txt=""), "smi-q.txt": MUTE})
    assert not no_driver({"manifest.tsv": ""})
    hung = "driver.txt\thung\t20.0\tx\n"
    assert not no_driver({"driver.txt": UNLOADED, "smi-q.txt": MUTE, "manifest.tsv": hung})


def test_a_strangers_program_is_named_and_ours_is_not() -> None:
    ours, theirs = "a" * 64, "b" * 64
    texts = bundle(
        gpu__holders_txt=f"7\tvllm\t/docker/{ours}\n8\tpython\t/docker/{theirs}\n9\ttrain\t/user.slice\n",
        gpu__containers_txt=f"{ours} /metalserve-vllm-0 nvidia null\n{theirs} /notebook nvidia null\n",
    )
    assert see(texts).strangers == ("container notebook (process 8, python)", "process 9 (train)")


@pytest.mark.parametrize("data", [b"", b"x" * 2000])
def test_a_bundle_that_was_cut_off_is_no_evidence(data: bytes) -> None:
    with pytest.raises(MetalserveError, match="bundle"):
        unpacked(data)


def test_a_bundle_without_its_manifest_is_no_evidence() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("evidence/kernel.log")
        archive.addfile(member, io.BytesIO())
    with pytest.raises(MetalserveError, match="no manifest"):
        unpacked(stream.getvalue())
