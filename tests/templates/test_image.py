"""Commands in the tree of an image: what they see, what they cannot do, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalserve.paths import ROOT
from metalserve.templates.building_roles import converge
from metalserve.templates.spec import TemplateSpec, load_spec
from metalserve.trees.image import STAND_INS, command_in_image
from metalserve.trees.inside import command_inside
from metalserve.trees.system import mounts_below
from tests.templates.trees import KERNEL, real_tree


def test_pyinfra_is_told_of_the_connector() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"]["pyinfra.connectors"]["image"].split(":")
    assert (ROOT / f"{module.replace('.', '/')}.py").read_text().count(f"class {name}(BaseConnector)") == 1


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with real_tree(tmp_path_factory.mktemp("image")) as root:
        (root / f"boot/vmlinuz-{KERNEL}").write_bytes(b"kernel")
        yield root


def sh(root: Path, script: str, epoch: int | None = None) -> subprocess.CompletedProcess[str]:
    line = command_in_image(root, ["sh", "-c", script], epoch=epoch)
    return subprocess.run(line, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_what_is_seen_is_the_images_and_not_the_builders(root: Path) -> None:
    script = """
    uname -r; uname -srm | cut -d' ' -f2; hostname; echo $$ $SOURCE_DATE_EPOCH $SYSTEMD_OFFLINE
    ls /sys/bus /sys/devices | grep -c . ; ls /dev | tr '\\n' ' '; echo
    [ -d /run/systemd/system ] && echo live || echo image
    (echo 1 >/proc/sys/vm/swappiness) 2>/dev/null || echo read-only
    /usr/sbin/policy-rc.d; echo $?
    systemctl is-enabled ssh.service
    """
    lines = sh(root, script, epoch=1_000).stdout.splitlines()
    assert lines == [
        KERNEL, KERNEL, "localhost", "1 1000 1", "2",
        "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero ",
        "image", "read-only", "101", "enabled",
    ]  # fmt: skip


def test_names_are_resolved_as_the_builder_does_and_the_tree_keeps_its_own_file(root: Path) -> None:
    before = (root / "etc/resolv.conf").lstat(), os.path.lexists(root / "etc/resolv.conf")
    seen = sh(root, "cat /etc/resolv.conf").stdout
    assert seen == Path("/etc/resolv.conf").read_text()
    assert ((root / "etc/resolv.conf").lstat(), True) == before


def test_nothing_is_left_but_two_empty_files_that_cleaning_knows(root: Path) -> None:
    before = sorted(path.name for path in (root / "run").iterdir())
    assert sh(root, "touch /run/mine /tmp/mine; mount | wc -l").returncode == 0
    assert [str(point) for point in mounts_below(root)] == [str(root)], "the overlay itself, of this test"
    assert [(root / name).read_bytes() for name in STAND_INS] == [b"", b""]
    assert sorted(path.name for path in (root / "run").iterdir()) == before
    assert not (root / "tmp/mine").exists()
    assert not any((root / "sys").iterdir())


@pytest.mark.parametrize("name", ["usr/sbin/policy-rc.d", "usr/local/sbin", "run", "var/cache"])
def test_a_link_that_leads_out_is_refused_and_nothing_is_written_there(tmp_path: Path, name: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (outside / "policy-rc.d").write_text("the builder's")
    path = root / name
    path.parent.mkdir(parents=True)
    (root / "usr").mkdir(exist_ok=True)
    path.symlink_to(outside / "policy-rc.d" if "policy" in name else outside)
    done = sh(root, "true")
    assert done.returncode == 97
    assert "link" in done.stderr
    assert [each.name for each in outside.iterdir()] == ["policy-rc.d"]
    assert (outside / "policy-rc.d").read_text() == "the builder's"


def test_whoever_dies_takes_what_it_started_along(root: Path, tmp_path: Path) -> None:
    mark = f"{tmp_path.name}-{os.getpid()}"
    line = command_in_image(root, ["sh", "-c", f"(sleep 612; : {mark}) & echo ready; wait"])
    starter = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", *line], stdout=subprocess.PIPE
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"ready\n"
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    deadline = time.monotonic() + 20
    while _running(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _running(mark) == []
    assert [str(point) for point in mounts_below(root)] == [str(root)]


def _running(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if mark.encode() in words and b"612" in words and path.parent.name != str(os.getpid()):
            found.append(path.parent.name)
    return found


def test_a_program_of_a_tool_root_is_the_process_itself(root: Path, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("seen")
    line = command_inside(root, ["sh", "-c", "cat /work/given; exec sleep 300"], binds={tmp_path: "/work"})
    process = subprocess.Popen(line, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(4) == b"seen"
    process.terminate()
    assert process.wait(timeout=20) == -signal.SIGTERM


def test_a_program_of_a_tool_root_ends_with_a_build_that_is_killed(root: Path, tmp_path: Path) -> None:
    mark = f"612.{os.getpid()}"
    program = (
        "import sys; from pathlib import Path; from metalserve.templates.toolroot import ToolRoot; "
        "ToolRoot(Path(sys.argv[1]), {}).run(['sleep', sys.argv[2]])"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, str(root), mark], cwd=ROOT)
    deadline = time.monotonic() + 60
    while len(_running(f"sleep\0{mark}")) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _running(f"sleep\0{mark}") != []
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    while _running(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _running(mark) == []


def test_the_real_role_is_built_in_and_then_has_nothing_left_to_do(root: Path, tmp_path: Path) -> None:
    """Without NTP, the base role needs no package that the lab's base lacks, so that no mirror is asked."""
    value = load_spec("debian-13-base").model_dump(mode="json")
    needed = ("gnupg", "nvme-cli", "numactl")
    status = root / "var/lib/dpkg/status"
    with status.open("a") as stream:
        for name in needed:
            stream.write(f"\nPackage: {name}\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n")
    spec = TemplateSpec.model_validate({**value, "settings": {"base": {"ntp": False, "timezone": "Europe/Rome"}}})
    place, cache = tmp_path / "place", tmp_path / "cache"
    for path in (place, cache):
        path.mkdir()
    changed = converge(spec, root, epoch=1_000_000, cache=cache, place=place)
    assert any("/etc/sysctl.d/90-metalserve.conf" in line for line in changed), changed
    assert os.readlink(root / "etc/localtime") == "/usr/share/zoneinfo/Europe/Rome"
    assert "vm.swappiness = 1" in (root / "etc/sysctl.d/90-metalserve.conf").read_text()
    assert not any("sysctl vm" in line for line in changed), "the builder's kernel is not the image's"
    assert converge(spec, root, epoch=1_000_000, cache=cache, place=place) == []
    assert str(ROOT) not in (root / "etc/sysctl.d/90-metalserve.conf").read_text()
