"""A run that measures: in its execute phase, judged after it, and one host's trouble is its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metalserve.verify.measurement_rules import INCONCLUSIVE
from tests.seam.conftest import Run, Seam


def measure(seam: Seam, *arguments: str, extra: dict[str, str] | None = None) -> Run:
    extra = {"METALSERVE_BASELINES_DIR": str(seam.directory / "baselines"), **(extra or {})}
    return seam.pyinfra(
        *(arguments or ("-y",)), "--data", "depth=standard", deploy="tests/seam/measures.py", extra=extra
    )


def baseline(seam: Seam) -> Path:
    return seam.directory / "baselines" / "@local.json"


def findings(host: dict[str, Any]) -> list[tuple[str, str]]:
    return [(f["check"], f["status"]) for f in host["findings"]]


def test_it_is_measured_judged_and_accepted(seam: Seam) -> None:
    run = measure(seam)
    assert run.rc == 0, run.out
    host = run.host()
    assert findings(host) == [("seam-mark", "ok"), ("drive-read", "ok")]
    assert host["measurements"]["storage"]["read_gb_s"] == 6.5
    assert host["proofs"]["checks"] == "2 ok" and host["changes"] == []
    assert json.loads(baseline(seam).read_text())["figures"] == {"drive": 6.5}
    again = measure(seam, extra={"SEAM_DRIVE": "2.0"})
    assert ("baseline", "warn") in findings(again.host())
    assert json.loads(baseline(seam).read_text())["figures"] == {"drive": 6.5}, "the first one stays"


def test_depth_quick_measures_nothing(seam: Seam) -> None:
    run = seam.pyinfra("-y", deploy="tests/seam/measures.py")
    assert run.rc == 0, run.out
    assert run.host()["measurements"] == {} and run.host()["sessions"] == 1


def test_a_dry_run_says_what_it_would_do_and_judges_the_rest(seam: Seam) -> None:
    run = measure(seam, "--dry")
    assert run.rc == 0, run.out
    assert run.host()["planned"] == [["measure", "measure", "load on all GPUs (depth standard)"]]
    assert run.host()["measurements"] == {} and run.host()["proofs"]["checks"] == "1 ok"


def test_a_bad_measurement_fails_the_host_and_is_no_baseline(seam: Seam) -> None:
    run = measure(seam, extra={"SEAM_MEASURED": "fail"})
    assert run.rc != 0
    assert "nvme0n1: drive-read: expected fast, found slow" in run.host()["failure"]["what"]
    assert not baseline(seam).exists()


def test_a_check_that_failed_before_still_fails_after_a_good_measurement(seam: Seam) -> None:
    run = measure(seam, extra={"SEAM_FINDING": "fail"})
    assert run.rc != 0 and "seam-mark" in run.host()["failure"]["what"]
    assert run.host()["measurements"]["storage"] is not None


def test_one_hosts_trouble_is_its_own(seam: Seam) -> None:
    run = measure(seam, extra={"SEAM_BROKEN": "@local"})
    assert "the answer broke off" in run.host()["failure"]["what"]
    seam.hosts({"@local": {}, "@fake/other": seam.fake()})  # it never says that a measurement began
    run = measure(seam)
    assert run.rc != 0 and "the measurement did not begin" in run.host("@fake/other")["failure"]["what"]
    assert run.host()["failure"] is None and run.host()["measurements"]["storage"]["read_gb_s"] == 6.5
    run = measure(seam, extra={"SEAM_OBSTACLE": "@local"})
    assert run.host()["failure"] is None
    assert run.host()["measurements"]["skipped"] == "engines run"
    assert findings(run.host())[-1] == ("measurement", INCONCLUSIVE)


def test_a_measurement_that_runs_is_followed_not_begun(seam: Seam) -> None:
    run = measure(seam, extra={"SEAM_ATTACH": "echo active; echo MS_DEPTH=deep", "SEAM_BEGINS": "exit 7"})
    assert run.rc == 0, run.out
    assert "a measurement runs already: following it" in run.out


def test_progress_is_shown_until_it_has_ended(seam: Seam) -> None:
    count = seam.directory / "count"
    told = '{"t_s": 20, "seconds": 900, "gpus": [{"tflops": 700.0, "temperature_c": 61}]}'
    script = (
        f"echo x >>{count}; if [ $(wc -l <{count}) -lt 3 ]; then echo @@measure running; echo '@@phase 1 soak'; "
        f"echo '@@progress {told}'; else echo @@measure ended; fi"
    )
    run = measure(seam, extra={"SEAM_FOLLOW": script})
    assert run.rc == 0, run.out
    assert run.out.count("soak 20 of 900 s, 700 to 700 TFLOP/s, up to 61 C") == 1, "not the same line twice"
    assert len(count.read_text().split()) == 3


def test_a_host_that_falls_silent_is_told_so(seam: Seam) -> None:
    run = measure(seam, extra={"SEAM_FOLLOW": "exit 3"})
    assert run.rc != 0
    assert "no longer says how far the measurement is" in run.host()["failure"]["what"]
    assert "followed" in run.host()["failure"]["remedy"]


def test_a_damaged_baseline_is_named(seam: Seam) -> None:
    baseline(seam).parent.mkdir()
    baseline(seam).write_text("{")
    run = measure(seam)
    assert run.rc != 0 and "@local.json" in run.host()["failure"]["what"]
