"""A run from beginning to end: what it changes, what it says, how it fails."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from tests.seam.conftest import BARE, Seam


def test_dry_then_run_then_nothing(seam: Seam) -> None:
    dry = seam.pyinfra("--dry")
    assert dry.rc == 0, dry.out
    assert list(seam.root.iterdir()) == []
    assert "seam / configure: file" in dry.out and "absent -> written" in dry.out
    assert "the mark: known only after plain.conf is there" in dry.out  # honest about what it cannot know
    assert dry.host()["status"] == "would change"
    assert dry.report["executed"] is False and dry.report["complete"] is True
    assert dry.host()["sessions"] == 1

    first = seam.pyinfra("-y")
    assert first.rc == 0, first.out
    assert sorted(p.name for p in seam.root.iterdir()) == ["mark", "plain.conf", "secret.env"]
    assert stat.S_IMODE((seam.root / "secret.env").stat().st_mode) == 0o600
    assert first.host()["status"] == "changed"
    assert [(r, s) for r, s, _ in first.host()["changes"]] == [("seam", "configure")] * 2 + [("seam", "activate")]

    second = seam.pyinfra("-y")
    assert second.rc == 0, second.out
    assert (second.host()["status"], second.host()["sessions"]) == ("unchanged", 1)
    assert second.host()["changes"] == [] and second.host()["planned"] == []


def test_without_yes_a_run_that_changes_nothing_asks_nothing_twice(seam: Seam) -> None:
    assert seam.pyinfra("-y").rc == 0
    dry = seam.pyinfra("--dry")
    assert (dry.rc, dry.host()["status"]) == (0, "unchanged")


def test_drift_is_found_and_mended(seam: Seam) -> None:
    seam.pyinfra("-y")
    (seam.root / "plain.conf").write_text("changed by hand\n")
    (seam.root / "secret.env").chmod(0o644)
    mended = seam.pyinfra("-y")
    assert [c[2] for c in mended.host()["changes"]] == [
        f"file {seam.root}/plain.conf: content",
        f"file {seam.root}/secret.env: mode 0644 -> 0600",
    ]
    assert (seam.root / "plain.conf").read_text() == "release = 2026.11-lts\n"


@pytest.mark.parametrize(
    ("variable", "what", "remedy"),
    [
        ("SEAM_REFUSE", "seam: this host cannot be mended", "buy another"),
        ("SEAM_BUG", "internal error: ZeroDivisionError: a bug in a role", "this is a fault of metalserve"),
    ],
)
def test_a_host_whose_decision_fails_fails_alone(seam: Seam, variable: str, what: str, remedy: str) -> None:
    seam.hosts({"@fake/bad": seam.fake(), "@local": {}})
    run = seam.pyinfra("-y", extra={variable: "@fake/bad"})
    assert run.rc == 1
    assert run.host()["status"] == "changed"
    assert (seam.root / "mark").exists()
    failure = run.host("@fake/bad")["failure"]
    assert failure["what"] == what
    assert failure["remedy"].startswith(remedy)
    assert f"@fake/bad: seam / decide failed: {what}" in run.out
    assert "Traceback" not in run.out


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ("", "the observation broke off after section 'nothing'"),
        (BARE.replace("@@ms:end", ""), "the observation broke off after section 'keys'"),
        (BARE.replace("uid=0", "uid=1000"), "commands run as uid 1000, not as root"),
    ],
)
def test_a_host_whose_answer_cannot_be_used_fails_alone(seam: Seam, answer: str, what: str) -> None:
    seam.hosts({"@fake/bad": seam.fake(answer), "@local": {}})
    run = seam.pyinfra("-y")
    assert run.rc == 1
    assert run.host("@fake/bad")["failure"]["what"] == what
    assert run.host()["status"] == "changed"


def test_a_change_that_does_not_take_is_a_failure(seam: Seam) -> None:
    """The fake host answers "done" to everything and stays as it is."""
    seam.hosts({"@fake/stuck": seam.fake(BARE + "\n@@ms:step done"), "@local": {}})
    run = seam.pyinfra("-y")
    assert run.rc == 1
    assert run.host("@fake/stuck")["failure"]["what"].startswith("still not as wanted after the change: file ")
    assert run.host()["status"] == "changed"


def test_a_failing_change_tells_the_step_and_what_the_host_said(seam: Seam) -> None:
    script = "echo 'E: no such thing'; echo 'because -> do that' >&2; exit 3"
    run = seam.pyinfra("-y", extra={"SEAM_SCRIPT": script})
    assert run.rc == 1
    failure = run.host()["failure"]
    assert failure["what"] == "make the mark: because"
    assert failure["remedy"] == "do that"
    assert failure["evidence"].splitlines() == ["E: no such thing", "because -> do that"]
    assert run.host()["status"] == "failed"
    assert "    do: do that" in run.out


def test_what_a_host_prints_need_not_be_utf8(seam: Seam) -> None:
    script = r"printf 'bad \377\376 bytes\n'; : >$SEAM_ROOT/mark"
    run = seam.pyinfra("-y", extra={"SEAM_SCRIPT": script})
    assert run.rc == 0, run.out


@pytest.mark.parametrize("status", ["fail", "unknown"])
def test_a_failing_proof_fails_the_host(seam: Seam, status: str) -> None:
    run = seam.pyinfra("-y", extra={"SEAM_FINDING": status})
    assert run.rc == 1
    failure = run.host()["failure"]
    assert failure["stage"] == "prove mark"
    assert failure["what"] == "@local: seam-mark: expected a mark, found what it is (nothing works)"
    assert failure["remedy"] == "make it"
    again = seam.pyinfra("-y", extra={"SEAM_FINDING": status})  # nothing to change now: judged before execution
    assert (again.rc, again.host()["failure"]["stage"]) == (1, "prove mark")


def test_a_warning_is_told_and_fails_nothing(seam: Seam) -> None:
    run = seam.pyinfra("-y", extra={"SEAM_FINDING": "warn"})
    assert run.rc == 0
    assert len(run.host()["warnings"]) == 1
    assert "@local: warning: @local: seam-mark: expected a mark" in run.out


def test_a_proof_is_waited_for_as_long_as_it_may_take(seam: Seam) -> None:
    late = "tests/seam/late.py"
    at_once = seam.pyinfra("-y", deploy=late)
    assert (at_once.rc, at_once.host()["failure"]["stage"]) == (1, "prove late")
    too_short = seam.pyinfra("-y", deploy=late, extra={"SEAM_WITHIN": "1"})
    assert too_short.rc == 1
    dry = seam.pyinfra("--dry", deploy=late, extra={"SEAM_WITHIN": "30"})
    assert (dry.rc, dry.host()["status"]) == (0, "would change")
    assert "not yet right" in dry.out
    timer = threading.Timer(5, (seam.root / "mark").touch)
    timer.start()
    waited = seam.pyinfra("-y", deploy=late, extra={"SEAM_WITHIN": "60"})
    timer.join()
    assert (waited.rc, waited.host()["status"]) == (0, "unchanged"), waited.out


class TestProofsOnly:
    deploy = "tests/seam/proofs.py"

    def test_changes_nothing_and_shows_the_findings(self, seam: Seam) -> None:
        run = seam.pyinfra("-y", "-v", deploy=self.deploy)
        assert run.rc == 0, run.out
        assert list(seam.root.iterdir()) == []
        assert run.host()["sessions"] == 1
        assert run.host()["findings"][0]["check"] == "seam-mark"
        assert "seam / mark: ok: seam-mark" in run.out
        quiet = seam.pyinfra("-y", deploy=self.deploy)
        assert "seam / mark: ok" not in quiet.out and "checks: 1 ok" in quiet.out

    def test_a_bad_finding_fails_the_host(self, seam: Seam) -> None:
        seam.hosts({"@fake/other": seam.fake(), "@local": {}})
        run = seam.pyinfra("-y", deploy=self.deploy, extra={"SEAM_FINDING": "unknown"})
        assert run.rc == 1
        assert run.host()["failure"]["evidence"].startswith("unknown: seam-mark: @local: what it is; expected a mark")

    def test_a_machine_without_systemd_is_proved_too(self, seam: Seam) -> None:
        seam.hosts({"@fake/container": seam.fake(BARE.replace("live=1", "live=0"))})
        run = seam.pyinfra("-y", deploy=self.deploy)
        assert [f["check"] for f in run.host("@fake/container")["findings"]] == ["seam-mark"]

    def test_a_run_that_checked_nothing_has_proved_nothing(self, seam: Seam) -> None:
        run = seam.pyinfra("-y", deploy=self.deploy, extra={"SEAM_FINDING": "none"})
        assert run.rc == 1
        assert run.host()["failure"]["what"] == "nothing was checked"
        assert run.report["complete"] is True, "the only host failed: nobody was left out"


class TestBeforeAnyHostIsContacted:
    def test_bad_settings_are_refused(self, seam: Seam) -> None:
        seam.hosts({"@local": {}, "@fake/x": seam.fake(relase="x", engine={"prot": 1})})
        run = seam.pyinfra("-y")
        assert run.rc == 1
        assert "did you mean 'release'" in run.out
        assert "did you mean 'port'" in run.out
        assert "Connected" not in run.out and list(seam.root.iterdir()) == []

    def test_an_unknown_release_is_refused(self, seam: Seam) -> None:
        seam.hosts({"@local": {"release": "2026.11-ltx"}})
        run = seam.pyinfra("-y")
        assert run.rc == 1
        assert "2026.11-lt" in run.out and "Connected" not in run.out

    def test_only_the_hosts_of_a_limit_are_checked(self, seam: Seam) -> None:
        seam.hosts({"@local": {}, "@fake/x": seam.fake(relase="x")})
        assert seam.pyinfra("-y", "--limit", "@local").rc == 0

    def test_an_unknown_limit_is_refused(self, seam: Seam) -> None:
        run = seam.pyinfra("-y", "--limit", "gpu-99")
        assert run.rc == 1
        assert "--limit gpu-99: no such host or group -> hosts: @local" in run.out
        assert "Connected" not in run.out

    def test_one_unknown_limit_among_good_ones_is_refused(self, seam: Seam) -> None:
        run = seam.pyinfra("-y", "--limit", "@local", "--limit", "gpu-99")
        assert run.rc == 1 and "Connected" not in run.out


def test_a_host_that_cannot_be_reached_is_told_and_the_others_go_on(seam: Seam) -> None:
    unreachable = {"ssh_hostname": "127.0.0.1", "ssh_port": 1, "ssh_user": "root", "ssh_look_for_keys": False}
    seam.hosts({"gone": unreachable, "@local": {}})
    run = seam.pyinfra("-y")
    assert run.rc == 1
    assert run.host("gone")["status"] == "unreachable"
    assert run.host("gone")["failure"]["what"]
    assert run.host()["status"] == "changed"


def test_all_hosts_unreachable_still_gives_a_report(seam: Seam) -> None:
    seam.hosts({"gone": {"ssh_hostname": "127.0.0.1", "ssh_port": 1, "ssh_user": "root"}})
    run = seam.pyinfra("-y")
    assert run.rc == 1
    assert run.host("gone")["status"] == "unreachable"


def test_secrets_are_in_nothing_that_a_run_writes(seam: Seam) -> None:
    secret = "s3cr3t-0123456789"
    run = seam.pyinfra("-y", "-vvv", "--debug", extra={"SEAM_SECRET": secret})
    assert run.rc == 0, run.out
    assert secret not in run.out
    assert secret not in (seam.directory / "report.json").read_text()
    assert secret in (seam.root / "secret.env").read_text()
    log = Path("pyinfra-debug.log")
    assert not log.exists() or secret not in log.read_text()
    assert stat.S_IMODE(os.stat(seam.directory / "report.json").st_mode) == 0o600
