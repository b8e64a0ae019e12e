"""The scripts that finish dpkg's work and build the module, in the shells of hosts, with stand-ins for the tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from roles.nvidia_driver import desired, preflight
from tests.desired.shells import SHELLS, Result, function_call, run_script, tool
from tests.roles.test_next_boot import HEADLESS, host
from tests.verify.boots import DRIVER, NEW, Boot

both = pytest.mark.parametrize("shell", SHELLS)


def configure(shell: str, tmp_path: Path, *, lock_timeout_s: int = 5) -> Result:
    wish = preflight.preflight(host(Boot(packages="journal=1\n")))
    script = next(a.script for a in wish.actions)
    return run_script(function_call(script, tmp_path / "tools", lock_timeout_s=lock_timeout_s), shell, tmp_path / "run")


@both
def test_dpkg_finishes(shell: str, tmp_path: Path) -> None:
    tool(tmp_path / "tools", "dpkg", f'echo "$*" >>{tmp_path}/said; echo Setting up dkms')
    tool(tmp_path / "tools", "dpkg-query", 'echo "ii  dkms"; echo "rc  old"; echo "hi  held"')
    done = configure(shell, tmp_path)
    assert done.rc == 0, done.out
    assert (tmp_path / "said").read_text() == "--configure -a\n"


@both
def test_the_lock_of_another_dpkg_is_waited_for(shell: str, tmp_path: Path) -> None:
    lock = "dpkg: error: dpkg frontend lock was locked by another process with pid 77"
    tool(
        tmp_path / "tools",
        "dpkg",
        f'[ -e {tmp_path}/free ] && exit 0; touch {tmp_path}/free; echo "{lock}" >&2; exit 2',
    )
    tool(tmp_path / "tools", "dpkg-query", 'echo "ii  dkms"')
    done = configure(shell, tmp_path, lock_timeout_s=30)
    assert done.rc == 0 and "waiting for dpkg's lock" in done.out, done.out


@both
def test_a_lock_that_is_held_too_long_is_named(shell: str, tmp_path: Path) -> None:
    tool(tmp_path / "tools", "dpkg", "echo 'dpkg: error: dpkg frontend lock was locked by another process' >&2; exit 2")
    done = configure(shell, tmp_path, lock_timeout_s=0)
    assert done.rc == 1 and "dpkg is locked by another process after 0 s" in done.out


@both
def test_a_package_that_cannot_be_configured_is_explained(shell: str, tmp_path: Path) -> None:
    failing = (
        "echo 'dpkg: error processing package dkms (--configure):' >&2; "
        "echo ' installed dkms package post-installation script subprocess returned error exit status 10' >&2; exit 1"
    )
    tool(tmp_path / "tools", "dpkg", failing)
    tool(tmp_path / "tools", "dpkg-query", 'echo "iF  dkms"; echo "ii  kmod"')
    tool(tmp_path / "tools", "apt-get", f'echo "$*" >>{tmp_path}/apt; exit 100')
    done = configure(shell, tmp_path)
    assert done.rc == 1
    assert "dpkg cannot finish: dkms " in done.out and "returned error exit status 10" in done.out
    assert "-f install" in (tmp_path / "apt").read_text()  # what lacks a dependency, apt could have completed


def build(shell: str, tmp_path: Path) -> Result:
    script = next(a.script for a in desired.build_next(host(HEADLESS)).actions)
    return run_script(function_call(f"({script})", tmp_path / "tools"), shell, tmp_path / "run")


@both
def test_dkms_builds_for_the_kernel_that_boots_next(shell: str, tmp_path: Path) -> None:
    tool(tmp_path / "tools", "dkms", f'echo "$*" >>{tmp_path}/dkms')
    tool(
        tmp_path / "tools",
        "modinfo",
        f'[ "$*" = "-k {NEW} -F version nvidia" ] && [ -e {tmp_path}/dkms ] && echo {DRIVER}',
    )
    done = build(shell, tmp_path)
    assert done.rc == 0, done.out
    assert (tmp_path / "dkms").read_text() == f"autoinstall -k {NEW}\n"


@both
def test_a_lost_source_is_installed_again(shell: str, tmp_path: Path) -> None:
    tool(tmp_path / "tools", "dkms", f"[ -e {tmp_path}/source ] && touch {tmp_path}/built; exit 0")
    tool(tmp_path / "tools", "depmod", "exit 0")
    tool(tmp_path / "tools", "modinfo", f"[ -e {tmp_path}/built ] && echo {DRIVER}")
    tool(tmp_path / "tools", "apt-get", f'echo "$*" >{tmp_path}/source')
    done = build(shell, tmp_path)
    assert done.rc == 0, done.out
    assert "--reinstall" in (tmp_path / "source").read_text()
    assert "nvidia-kernel-open-dkms" in (tmp_path / "source").read_text()


@both
def test_a_module_that_cannot_be_built_is_told_with_what_dkms_says(shell: str, tmp_path: Path) -> None:
    tool(tmp_path / "tools", "dkms", f'[ "$1" = status ] && echo "nvidia/{DRIVER}: added"; exit 11')
    tool(tmp_path / "tools", "depmod", "exit 0")
    tool(tmp_path / "tools", "modinfo", "exit 1")
    tool(tmp_path / "tools", "apt-get", "exit 100")
    done = build(shell, tmp_path)
    assert done.rc == 1 and f"nvidia/{DRIVER}: added" in done.out
    assert f"DKMS could not build nvidia {DRIVER} for kernel {NEW}" in done.out
