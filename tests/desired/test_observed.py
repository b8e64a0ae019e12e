"""The observation script runs on this machine and is parsed; answers of other machines are given as text."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.desired.model import Watch
from metalserve.desired.observe_script import observation_script
from metalserve.desired.observed import Observation, ObservationError, parse_observation
from metalserve.hardware.commands import COMMANDS
from tests.desired.shells import SHELLS, run_script

# Shaped as the script of observe_script.py prints it on a Debian host (values made up).
ANSWER = """
@@ms:facts
kernel=6.1.0-28-amd64
arch=x86_64
uid=0
now=1764000000.123456789
live=1
proc_sys_rw=1
virt=none

@@ms:os-release
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
ID=debian
VERSION_ID="12"

@@ms:packages
ii \tcurl\t7.88.1-10
hi \tnvidia-driver\t580.178.04-1
rc \told-one\t1.0
un \tnever\t
iF \tbroken\t2:1.0-1
a line that is none

@@ms:files
regular file\t644\troot\troot\t1763999999.250000\t6\tabc123\t\t/etc/x.conf
regular empty file\t4755\troot\tadm\t1763999999.250000\t0\te3b0\t\t/etc/a b
directory\t755\troot\troot\t1763999999,5\t4096\t\t\t/etc/dir
symbolic link\t777\troot\troot\t1763999999.0\t9\t\t/dev/null\t/etc/link
socket\t777\troot\troot\t1763999999.0\t0\t\t\t/run/s
\tabc\t\t/vanished

@@ms:units
Id=docker.service
Names=docker.service dockerd.service
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
ExecMainStartTimestamp=Mon 2025-11-24 16:00:00.500000 UTC
ActiveEnterTimestamp=Mon 2025-11-24 16:00:01 UTC
NeedDaemonReload=no
Result=success

Id=nothing.service
Names=nothing.service
LoadState=not-found
ActiveState=inactive
UnitFileState=
ExecMainStartTimestamp=
ActiveEnterTimestamp=n/a
NeedDaemonReload=yes

@@ms:sysctls
vm.swappiness=60
net.ipv4.tcp_rmem=4096 131072 6291456

@@ms:keys
path=/etc/apt/keyrings/metalserve-nvidia.asc
pub:-:4096:1:A4B469963BF863CC:1649116800:::-:::scSC:::::::
fpr:::::::::EB693B3035CD5710E231E123A4B469963BF863CC:
sub:-:4096:1:0000000000000000:1649116800::::::s:::::::
fpr:::::::::1111111111111111111111111111111111111111:
fpr:short
path=/etc/apt/keyrings/metalserve-empty.asc

@@ms:lspci
0000:01:00.0 3D controller [0302]: NVIDIA Corporation GH100 [10de:2330] (rev a1)

@@rc:0

@@ms:smi-q
sh: 1: nvidia-smi: not found

@@rc:127

@@ms:end
"""


@pytest.fixture
def answer() -> Observation:
    return parse_observation(ANSWER)


def test_the_host(answer: Observation) -> None:
    assert answer.live
    assert answer.kernel_settings_writable
    assert answer.os_id == "debian-12"
    assert answer.facts["now"] == "1764000000.123456789"


def test_packages(answer: Observation) -> None:
    assert sorted(answer.packages) == ["broken", "curl", "nvidia-driver"]  # removed ones do not count
    assert answer.version_of("nvidia-driver") == "580.178.04-1"  # held is installed
    assert answer.version_of("broken") is None
    assert answer.version_of("old-one") is None


def test_files(answer: Observation) -> None:
    assert answer.files["/etc/x.conf"].mode == "0644"
    assert answer.files["/etc/a b"].mode == "4755"
    assert [f.kind for f in answer.files.values()] == ["file", "file", "directory", "link", "other"]
    assert answer.files["/etc/dir"].mtime == 1763999999.5
    assert answer.files["/etc/link"].target == "/dev/null"


def test_units(answer: Observation) -> None:
    docker = answer.units["docker.service"]
    assert docker is answer.units["dockerd.service"]
    assert docker.started == 1764000000.5
    nothing = answer.units["nothing.service"]
    assert (nothing.load, nothing.started, nothing.needs_reload) == ("not-found", None, True)


def test_keys_have_their_primary_fingerprints_only(answer: Observation) -> None:
    assert answer.keys == {
        "/etc/apt/keyrings/metalserve-nvidia.asc": ("EB693B3035CD5710E231E123A4B469963BF863CC",),
        "/etc/apt/keyrings/metalserve-empty.asc": (),
    }


def test_commands_keep_text_and_status(answer: Observation) -> None:
    assert set(answer.sections) == {"lspci", "smi-q"}
    assert answer.sections["smi-q"].rc == 127
    assert answer.sections["lspci"].rc == 0
    assert "10de:2330" in answer.text("lspci")
    assert answer.text("never asked") == ""


@given(st.integers(min_value=0, max_value=len(ANSWER) - len("end\n") - 1))
def test_an_answer_that_was_cut_off_anywhere_is_refused(length: int) -> None:
    with pytest.raises(ObservationError):
        parse_observation(ANSWER[:length])


def test_where_it_was_cut_off_is_told() -> None:
    with pytest.raises(ObservationError, match="broke off after section 'units'"):
        parse_observation(ANSWER[: ANSWER.index("@@ms:sysctls")])
    with pytest.raises(ObservationError, match="broke off after section 'nothing'"):
        parse_observation("This account is currently not available.\n")


def test_a_section_that_is_missing_in_the_middle_is_told() -> None:
    with pytest.raises(ObservationError, match=r"lacks section\(s\) keys, units"):
        parse_observation(ANSWER.replace("@@ms:units", "").replace("@@ms:keys", ""))


@given(st.text())
def test_garbage_raises_nothing_else(text: str) -> None:
    try:
        parse_observation(text + "\n@@ms:end\n")
    except ObservationError:
        return


@given(st.sampled_from(["packages", "files", "units", "sysctls", "keys", "facts", "os-release"]), st.text())
def test_a_weird_section_spoils_only_itself(section: str, text: str) -> None:
    weird = ANSWER.replace(f"@@ms:{section}\n", f"@@ms:{section}\n{text}\n")
    if "@@ms:" in text:
        return
    assert "10de:2330" in parse_observation(weird).text("lspci")


# -- the script itself, on this machine


@pytest.mark.parametrize("shell", SHELLS)
class TestOnThisMachine:
    def observe(self, shell: str, tmp_path: Path, watch: Watch) -> Observation:
        done = run_script(observation_script(watch, {}), shell, tmp_path / "run")
        return parse_observation(done.out)

    def test_the_machine(self, shell: str, tmp_path: Path) -> None:
        observed = self.observe(shell, tmp_path, Watch())
        assert observed.facts["kernel"] == os.uname().release
        assert observed.facts["uid"] == str(os.getuid())
        assert int(observed.facts["memory_kib"]) > 100_000
        assert observed.os_release["ID"]
        assert observed.live is Path("/run/systemd/system").is_dir()

    def test_packages(self, shell: str, tmp_path: Path) -> None:
        if shutil.which("dpkg-query") is None:
            pytest.skip("no dpkg on this machine")
        wanted = ["dpkg-query", "-W", "-f=${Version}", "coreutils"]
        version = subprocess.run(wanted, capture_output=True, text=True, check=True).stdout
        assert self.observe(shell, tmp_path, Watch()).version_of("coreutils") == version

    def test_files_globs_and_awkward_names(self, shell: str, tmp_path: Path) -> None:
        root = tmp_path / "a dir"
        root.mkdir()
        (root / "plain.conf").write_text("x\n")
        (root / "it's $HOME.conf").write_text("")
        (root / "link.conf").symlink_to("/dev/null")
        (root / "dangling.conf").symlink_to("/nowhere/at all")
        (root / "sub.conf").mkdir(mode=0o700)
        (root / "plain.conf").chmod(0o640)
        watch = Watch(paths=(f"{root}/*.conf", f"{root}/missing", f"{root}/it's $HOME.conf", "/no/such/*"))
        observed = self.observe(shell, tmp_path, watch).files
        assert {Path(p).name: f.kind for p, f in observed.items()} == {
            "plain.conf": "file",
            "it's $HOME.conf": "file",
            "link.conf": "link",
            "dangling.conf": "link",
            "sub.conf": "directory",
        }
        plain = observed[str(root / "plain.conf")]
        assert plain.mode == "0640"
        assert plain.sha256 == "73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac"
        assert abs(plain.mtime - (root / "plain.conf").stat().st_mtime) < 1e-5
        assert observed[str(root / "dangling.conf")].target == "/nowhere/at all"

    def test_sysctls_that_the_kernel_does_not_have_are_left_out(self, shell: str, tmp_path: Path) -> None:
        observed = self.observe(shell, tmp_path, Watch(sysctls=("vm.swappiness", "no.such.key")))
        assert observed.sysctls == {"vm.swappiness": Path("/proc/sys/vm/swappiness").read_text().strip()}

    def test_commands_whatever_they_do(self, shell: str, tmp_path: Path) -> None:
        commands = {
            "fine": "echo 'it''s' fine",
            "fails": "echo to-errors >&2; exit 7",
            "no-newline": "printf %s x",
            "reads": "cat; echo read nothing",
            "exits": "set -e; false; echo never",
            "no-such-tool": "no-such-tool-anywhere",
            "bytes": r"printf 'a\377\376b\n'",
        }
        found = self.observe(shell, tmp_path, Watch(commands=commands)).sections
        assert {name: s.rc for name, s in found.items()} == {
            "fine": 0,
            "fails": 7,
            "no-newline": 0,
            "reads": 0,
            "exits": 1,
            "no-such-tool": 127,
            "bytes": 0,
        }
        assert found["fails"].text.strip() == "to-errors"
        assert found["no-newline"].text.strip() == "x"
        assert found["reads"].text.strip() == "read nothing"

    def test_with_the_commands_of_the_hardware(self, shell: str, tmp_path: Path) -> None:
        done = run_script(observation_script(Watch(), COMMANDS), shell, tmp_path / "run")
        assert set(parse_observation(done.out).sections) == set(COMMANDS)

    def test_the_tools_of_the_hardware_run_beside_the_rest(self, shell: str, tmp_path: Path) -> None:
        # Each waits for the other: one after the other none of them would ever find what it waits for.
        meet = f"touch {tmp_path}/{{0}}; timeout 20 sh -c 'until [ -e {tmp_path}/{{1}} ]; do sleep 0.05; done'; echo $?"
        watch = Watch(commands={"role": meet.format("role", "first")})
        tools = {"first": meet.format("first", "second"), "second": meet.format("second", "role")}
        done = run_script(observation_script(watch, tools), shell, tmp_path / "run")
        found = parse_observation(done.out).sections
        assert {name: section.text.strip() for name, section in found.items()} == dict.fromkeys(
            ("role", "first", "second"), "0"
        )

    def test_much_that_a_tool_prints_holds_nothing_up(self, shell: str, tmp_path: Path) -> None:
        tools = {name: f"seq 100000; echo {name}" for name in ("first", "second", "third")}
        found = parse_observation(run_script(observation_script(Watch(), tools), shell, tmp_path / "run").out).sections
        assert {name: len(section.text.split()) for name, section in found.items()} == dict.fromkeys(tools, 100001)

    def test_units_need_systemd_and_say_so_where_there_is_none(self, shell: str, tmp_path: Path) -> None:
        units = self.observe(shell, tmp_path, Watch(units=("no-such-thing.service",))).units
        if Path("/run/systemd/system").is_dir():
            assert units["no-such-thing.service"].load == "not-found"
        else:
            assert units["no-such-thing.service"].load == ""
            assert units["no-such-thing.service"].active == ""
