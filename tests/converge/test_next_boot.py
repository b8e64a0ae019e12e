"""The section "next boot" of `metalserve drift`: a verdict a host, good ones together."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from metalserve.cli.drift import _show_next_boot
from metalserve.converge.next_boot import outlooks
from metalserve.pyinfra_seam.report import RunReport
from metalserve.verify.finding import Finding


def finding(check: str, status: str, observed: str, remedy: str = "") -> dict[str, str]:
    made = Finding(check, status, "host", "e", observed, remedy=remedy).as_dict()  # type: ignore[arg-type]
    return {"role": "next_boot", **made}


def report() -> RunReport:
    made = RunReport()
    good = finding("next-boot", "ok", "NO: kernel 6.1.0-28-amd64 has nvidia 580.178.04")
    made.host("a").findings = [good, finding("next-boot-pins", "ok", "pinned")]
    made.host("b").findings = [good]
    made.host("c").findings = [
        finding("next-boot", "warn", "YES, because no module", "run role nvidia_driver"),
        finding("next-boot-module", "warn", "no module", "build it"),
        finding("next-boot-headers", "ok", "there"),
    ]
    made.host("d").findings = [good, finding("next-boot-branch", "warn", "branch 570 had its end of life", "upgrade")]
    made.host("e").findings = [finding("next-boot", "inconclusive", "UNKNOWN: no boot loader", "look")]
    made.host("f").findings = [finding("next-boot", "skipped", "NOT APPLICABLE: no NVIDIA GPU")]
    made.host("g").findings = [finding("driver", "fail", "of another role")]
    return made


def test_what_a_report_says_of_the_next_boot() -> None:
    found = {o.host: o for o in outlooks(report())}
    assert {n: (o.answer, o.decayed) for n, o in found.items()} == {
        "a": ("NO", False),
        "b": ("NO", False),
        "c": ("YES", True),
        "d": ("NO", True),
        "e": ("UNKNOWN", True),
        "f": ("NOT APPLICABLE", False),
    }
    told = found["c"].as_dict()
    assert told["remedy"] == "run role nvidia_driver"
    assert [f["check"] for f in told["findings"]] == ["next-boot-module"]


def test_how_it_is_shown() -> None:
    out = StringIO()
    _show_next_boot(Console(file=out, width=200), outlooks(report()))
    lines = out.getvalue().splitlines()
    ask = "the next reboot would break this node"
    assert lines[0] == "next boot"
    assert f"  c: {ask}: YES, because no module -> run role nvidia_driver" in lines
    assert "    next-boot-module: no module -> build it" in lines
    assert "    next-boot-branch: branch 570 had its end of life -> upgrade" in lines
    assert f"  e: {ask}: UNKNOWN: no boot loader -> look" in lines
    assert f"  a, b: {ask}: NO" in lines
    assert f"  f: {ask}: NOT APPLICABLE: no NVIDIA GPU" in lines


def test_a_deploy_without_the_role_has_no_such_section() -> None:
    out = StringIO()
    _show_next_boot(Console(file=out), outlooks(RunReport()))
    assert out.getvalue() == ""
