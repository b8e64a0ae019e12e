from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.lab import system
from metalserve.lab.guest import may_raise_limits
from metalserve.lab.system import ProcessId
from metalserve.trees.system import tree_digest


def test_a_process_is_known_by_its_start_too() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        mine = ProcessId.of(child.pid)
        assert mine is not None
        assert mine.alive()
        impostor = ProcessId(mine.pid, mine.start_time - 1)
        assert not impostor.alive()
        impostor.end()
        assert mine.alive(), "a process that only has the same pid must be left alone"
        assert child.pid in system.children(os.getpid())
        mine.end()
        assert not mine.alive(), "a zombie counts as ended"
    finally:
        child.kill()
        child.wait()


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with system.exclusive(path, "up"), pytest.raises(MetalserveError, match=f"lab up` .pid {os.getpid()}"):  # noqa: SIM117
        with system.exclusive(path, "down"):
            pass
    with system.exclusive(path, "down"):
        pass


def test_all_missing_programs_are_named_with_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MetalserveError) as caught:
        system.check_machine()
    assert "systemd-nspawn" in str(caught.value)
    assert "apt-get install" in str(caught.value)
    assert "systemd-container" in str(caught.value)


def test_a_plain_user_is_told_to_use_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MetalserveError, match="sudo"):
        system.check_machine()


def test_a_failing_program_is_quoted() -> None:
    with pytest.raises(MetalserveError, match="last words"):
        system.run(["sh", "-c", "echo first; echo last words >&2; exit 3"])


def test_a_cut_json_file_reads_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"a": ')
    assert system.read_json(tmp_path / "a") is None
    assert system.read_json(tmp_path / "b") is None
    system.write_json(tmp_path / "a", {"a": 1})
    assert system.read_json(tmp_path / "a") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_digest_of_a_tree_changes_with_content_name_and_mode(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").write_text("x")
    seen = {tree_digest([tree])}
    (tree / "a").write_text("y")
    seen.add(tree_digest([tree]))
    (tree / "a").chmod(0o755)
    seen.add(tree_digest([tree]))
    (tree / "a").rename(tree / "b")
    seen.add(tree_digest([tree]))
    seen.add(tree_digest([tree], "extra"))
    assert len(seen) == 5
    assert tree_digest([tree]) == tree_digest([tree, tmp_path / "absent"])


def test_the_right_to_raise_limits_is_read_from_the_kernel(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapBnd:\t000001fffeffffff\n")
    assert not may_raise_limits(status)
    status.write_text("CapBnd:\t000001ffffffffff\n")
    assert may_raise_limits(status)


def test_the_lab_command_without_a_lab_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "metalserve", "lab", "status"],
        capture_output=True, text=True, check=False, env={**os.environ, "METALSERVE_LAB_DIR": str(tmp_path / "none")},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "the lab is not up" in done.stderr
