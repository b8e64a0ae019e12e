"""Rendered scripts are run for real, with dash and bash, in a temporary directory: files, order, the lock."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

from metalserve.desired.diff import Change, difference
from metalserve.desired.model import Action, Desired, Directory, File, Reboot
from metalserve.desired.observed import Observation, ObservedFile
from metalserve.desired.render import render
from tests.desired.rendered import changes, shells
from tests.desired.shells import GROUP, USER, mend, run_script, tool, with_tools


def file(path: Path, content: str | None, mode: str = "0644") -> File:
    return File(str(path), content, mode=mode, owner=USER, group=GROUP)


AWKWARD = "no newline at the end, 'quotes' \"$HOME\" `id` \\n MS_EOF\nMS_EOF\n\tünïcode\n\n$(exit 3)"


@shells
def test_a_file_is_written_whole_with_its_mode(shell: str, tmp_path: Path) -> None:
    target = tmp_path / "new dir" / "it's a file"
    done = mend(changes(Desired(files=(file(target, AWKWARD, "0640"),))), shell, tmp_path / "run")
    assert done.rc == 0, done.out
    assert target.read_text() == AWKWARD
    assert target.stat().st_mode & 0o7777 == 0o640
    assert done.steps[-1] == "done"
    assert [p.name for p in target.parent.iterdir()] == [target.name]  # no temporary file is left


@shells
def test_a_large_script_arrives_whole(shell: str, tmp_path: Path) -> None:
    content = "".join(f"line {i} of a large file\n" for i in range(6000))
    target = tmp_path / "large"
    script = render(changes(Desired(files=(file(target, content),))))
    assert len(script) > 150_000
    assert run_script(script, shell, tmp_path / "run").rc == 0
    assert target.read_text() == content


@shells
def test_no_moment_at_which_others_can_read_a_secret(shell: str, tmp_path: Path) -> None:
    """When the content is about to be written, the temporary file is 0600 already."""
    tools = tmp_path / "tools"
    log = tmp_path / "log"
    tool(tools, "base64", f'stat -c "%a" {tmp_path}/.metalserve.* >>{log}; exec /usr/bin/base64 "$@"')
    target = tmp_path / "secret"
    script = render(changes(Desired(files=(file(target, "TOKEN", "0600"),))))
    assert run_script(with_tools(script, tools), shell, tmp_path / "run").rc == 0
    assert log.read_text().split() == ["600"]
    assert target.stat().st_mode & 0o777 == 0o600


@shells
def test_a_secret_is_never_in_any_process_argv(shell: str, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    log = tmp_path / "argv"
    for name in ("base64", "mktemp", "chown", "chmod", "mv", "sync", "mkdir", "dirname", "flock"):
        path = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        tool(tools, name, f'printf "%s\\n" "$0 $*" >>{log}; exec {path} "$@"')
    secret = "hf_abcdefghijklmnop"
    desired = Desired(files=(File(str(tmp_path / "env"), f"HF_TOKEN={secret}\n", "0600", USER, GROUP, secret=True),))
    script = render(changes(desired))
    encoded = "SEZfVE9LRU4"  # how "HF_TOKEN" begins in base64
    assert encoded in script and secret not in script
    done = run_script(with_tools(script, tools), shell, tmp_path / "run")
    assert done.rc == 0
    argv = log.read_text()
    assert "base64" in argv and "mv" in argv
    assert encoded not in argv and secret not in argv
    assert encoded not in done.out and secret not in done.out


@shells
def test_a_failing_write_leaves_the_old_file_and_says_so(shell: str, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tool(tools, "sync", "exit 1")  # a full disk shows itself at the latest here
    target = tmp_path / "kept"
    target.write_text("old")
    script = render(changes(Desired(files=(file(target, "new"),))))
    done = run_script(with_tools(script, tools), shell, tmp_path / "run")
    assert done.rc == 1
    assert f"could not write {target}" in done.out
    assert target.read_text() == "old"
    assert not list(tmp_path.glob(".metalserve.*"))


@shells
def test_a_directory_in_the_place_of_a_file_is_told(shell: str, tmp_path: Path) -> None:
    target = tmp_path / "place"
    (target / "full").mkdir(parents=True)
    done = mend(changes(Desired(files=(file(target, "x"),))), shell, tmp_path / "run")
    assert done.rc == 1
    assert f"could not write {target}" in done.out
    assert not list(tmp_path.glob(".metalserve.*"))


@shells
def test_removal_and_directories(shell: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.write_text("x")
    made = tmp_path / "made"
    observed = Observation(files={str(gone): ObservedFile(str(gone), "file", "0644", USER, GROUP, 0.0)})
    desired = Desired(files=(file(gone, None),), directories=(Directory(str(made), "0750", USER, GROUP),))
    done = mend(list(difference(desired, observed)), shell, tmp_path / "run")
    assert done.rc == 0, done.out
    assert not gone.exists()
    assert made.stat().st_mode & 0o777 == 0o750


@shells
def test_a_file_in_the_place_of_a_directory_is_refused(shell: str, tmp_path: Path) -> None:
    path = tmp_path / "it's"
    path.write_text("precious")
    observed = Observation(files={str(path): ObservedFile(str(path), "file", "0644", USER, GROUP, 0.0)})
    desired = Desired(directories=(Directory(str(path), "0755", USER, GROUP),))
    done = mend(list(difference(desired, observed)), shell, tmp_path / "run")
    assert done.rc == 1
    assert f"{path} exists and is no directory -> move it away" in done.out
    assert path.read_text() == "precious"


@shells
def test_the_failing_step_is_the_last_one_told_and_nothing_follows(shell: str, tmp_path: Path) -> None:
    later = tmp_path / "later"
    desired = Desired(
        actions=(
            Action("first", lambda o: False, "cd /; MARK=1; echo fine"),
            Action("second", lambda o: False, 'echo to-output; echo to-errors >&2; test -z "${MARK:-}"; false'),
            Action("third", lambda o: False, f"touch {later}"),
        )
    )
    done = mend(changes(desired), shell, tmp_path / "run")
    assert done.rc == 1
    assert done.steps == ["first", "second"]
    assert done.out.splitlines()[-2:] == ["to-output", "to-errors"]  # in the order in which they were said
    assert not later.exists()


@shells
def test_undefined_variables_and_failing_pipes_stop_an_action(shell: str, tmp_path: Path) -> None:
    desired = Desired(actions=(Action("typo", lambda o: False, 'echo "$NO_SUCH"; touch /never'),))
    assert mend(changes(desired), shell, tmp_path / "run").rc != 0


@shells
def test_nothing_but_a_reboot_is_still_a_valid_script(shell: str, tmp_path: Path) -> None:
    done = mend([Change(Reboot("because"), "reboot: because")], shell, tmp_path / "run")
    assert (done.rc, done.steps) == (0, ["done"])


class TestApplyLock:
    """A script left over from a run that was cut off must not overlap with the next run's."""

    @shells
    def test_two_scripts_do_not_overlap(self, shell: str, tmp_path: Path) -> None:
        log = tmp_path / "log"
        desired = Desired(actions=(Action("slow", lambda o: False, f"echo in >>{log}; sleep 0.5; echo out >>{log}"),))
        script = render(changes(desired), lock_timeout_s=20)
        threads = [
            threading.Thread(target=run_script, args=(script, shell, tmp_path / "run"), daemon=True) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log.read_text().split() == ["in", "out"] * 3

    @shells
    def test_a_daemon_that_a_change_started_does_not_hold_it(self, shell: str, tmp_path: Path) -> None:
        pid_file = tmp_path / "pid"
        daemon = f"setsid sleep 60 </dev/null >/dev/null 2>&1 & echo $! >{pid_file}"
        first = mend(changes(Desired(actions=(Action("daemon", lambda o: False, daemon),))), shell, tmp_path / "run")
        try:
            assert first.rc == 0
            begun = time.monotonic()
            second = mend(changes(Desired(actions=(Action("next", lambda o: False, ":"),))), shell, tmp_path / "run")
            assert second.rc == 0, second.out
            assert time.monotonic() - begun < 3
        finally:
            subprocess.run(["kill", pid_file.read_text().strip()], check=True)

    @shells
    def test_it_is_held_while_the_changes_run(self, shell: str, tmp_path: Path) -> None:
        probe = f'flock -n "{tmp_path}/run/apply" true && echo free || echo held'
        done = mend(changes(Desired(actions=(Action("probe", lambda o: False, probe),))), shell, tmp_path / "run")
        assert "held" in done.out.splitlines()

    @shells
    def test_waiting_ends_with_who_holds_it(self, shell: str, tmp_path: Path) -> None:
        run_dir = tmp_path / "run"
        run_dir.mkdir()
        (run_dir / "applying").write_text("process 42 since yesterday\n")
        holding = f'exec 8>>"{run_dir}/apply"; flock 8; exec sleep 30'
        with subprocess.Popen(["sh", "-c", holding]) as holder:
            time.sleep(0.3)
            done = mend(
                changes(Desired(actions=(Action("x", lambda o: False, ":"),))), shell, run_dir, lock_timeout_s=1
            )
            holder.terminate()
        assert done.rc == 1
        assert "still at work (process 42 since yesterday)" in done.out
