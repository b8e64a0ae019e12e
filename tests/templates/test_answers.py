"""Answers for the distributions' installers: what they wipe, who can log in, and that their own tools take them."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from metalserve.cli.template_answers import command
from metalserve.templates.answers import Target, answers
from metalserve.templates.firstboot import UNVERIFIED
from metalserve.templates.manifest import TemplateError
from metalserve.templates.spec import KernelSpec, PoolFile, TemplateSpec, UserSpec, load_spec

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ7 it's@site"
OPS = UserSpec(name="ops", sudo=True, groups=["adm"], authorized_keys=[KEY])
TARGET = Target("node1", "S64ANS0R123456")


def spec(name: str, **changed: Any) -> TemplateSpec:
    return load_spec(name).model_copy(update={"users": [OPS], **changed})


def autoinstall(name: str = "ubuntu-24.04") -> dict[str, Any]:
    files = answers(spec(name), TARGET)
    assert set(files) == {"user-data", "meta-data"}
    assert files["user-data"].startswith("#cloud-config\n")
    config = yaml.safe_load(files["user-data"])["autoinstall"]
    assert isinstance(config, dict)
    return config


def preseed(name: str = "debian-13", **changed: Any) -> dict[str, str]:
    """Return question -> answer of a preseed file."""
    text = answers(spec(name, **changed), TARGET)["preseed.cfg"]
    rows = [line.split(None, 3) for line in text.splitlines() if line and not line.startswith("#")]
    return {row[1]: row[3] if len(row) > 3 else "" for row in rows}


def kickstart() -> str:
    return answers(spec("rocky-9"), TARGET)["ks.cfg"]


def section(text: str, name: str) -> str:
    found = re.search(rf"^%{name}[^\n]*\n(.*?)^%end$", text, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def finish_of_preseed(found: dict[str, str]) -> str:
    packed = re.search(r"printf %s (\S+) \| base64 -d", found["preseed/late_command"])
    assert packed
    return base64.b64decode(packed[1]).decode()


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `lsblk` that prints what stands in the file that is returned."""
    listed = tmp_path / "disks"
    program = tmp_path / "bin" / "lsblk"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat '{listed}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return listed


ONE = "sda disk OTHER\nnvme1n1 disk S64ANS0R123456\nsr0 rom \nnvme0n1 disk S64ANS0R1234567\n"
NONE = "sda disk OTHER\nnvme0n1 disk\n"
TWO = "sda disk S64ANS0R123456\nsdb disk S64ANS0R123456\n"


def test_autoinstall_finds_the_disk_by_its_serial_and_puts_it_in(tmp_path: Path, disks: Path) -> None:
    config = autoinstall()
    (script,) = (words[2] for words in config["early-commands"])
    file = tmp_path / "autoinstall.yaml"
    for listed, good in ((NONE, False), (TWO, False), (ONE, True)):
        disks.write_text(listed)
        file.write_text(yaml.safe_dump(config))
        done = subprocess.run(
            ["sh", "-c", script.replace("/autoinstall.yaml", str(file))], capture_output=True, text=True, check=False
        )
        assert (done.returncode == 0) is good, done.stderr
        path = yaml.safe_load(file.read_text())["storage"]["config"][0]["match"]["path"]
        assert path == ("/dev/nvme1n1" if good else "@METALSERVE_DISK@")
        assert good or "nothing is wiped" in done.stderr


def test_autoinstall_says_what_the_specification_says() -> None:
    config, of = autoinstall(), spec("ubuntu-24.04")
    storage = {each["id"]: each for each in config["storage"]["config"]}
    assert storage["esp"]["size"] == f"{of.disk.esp_mib}M"
    assert storage["root-fs"]["fstype"] == of.disk.file_system
    assert [each["id"] for each in storage.values() if each["type"] == "disk"] == ["disk"]
    assert config["ssh"] == {"install-server": True, "allow-pw": False}
    assert set(of.packages) <= set(config["packages"])
    assert config["kernel"]["package"] == of.kernel.package
    assert "identity" not in config
    assert config["user-data"]["users"] == []
    finish = config["late-commands"][0][-1]
    assert "useradd --create-home --shell /bin/bash ops" in finish
    assert "GRUB_CMDLINE_LINUX_DEFAULT" in finish


def test_preseed_says_what_the_specification_says() -> None:
    found = preseed()
    assert found["mirror/suite"] == "trixie"
    assert (found["mirror/http/hostname"], found["mirror/http/directory"]) == ("mirror.invalid", "/debian")
    assert found["apt-setup/security_host"] == "security.invalid"
    assert found["apt-setup/contrib"] == "true"
    assert found["base-installer/kernel/image"] == "linux-image-amd64"
    assert found["passwd/root-password-crypted"] == "!"
    assert found["passwd/make-user"] == "false"
    assert "firmware-bnx2x" in found["pkgsel/include"]
    assert "256 256 256 free" in found["partman-auto/expert_recipe"]
    assert "partman-auto/disk" not in found  # only the early command may name it
    assert preseed("debian-12")["mirror/suite"] == "bookworm"


@pytest.mark.parametrize(
    ("links", "disk"),
    [
        ({"nvme-Maker_S64ANS0R123456": "nvme1n1", "nvme-Maker_S64ANS0R1234567": "nvme0n1"}, "nvme1n1"),
        ({"nvme-Maker_S64ANS0R123456": "nvme1n1", "nvme-Maker_S64ANS0R123456_1": "nvme1n1"}, "nvme1n1"),
        ({"nvme-Maker_OTHER": "nvme0n1"}, None),
        ({"ata-A_S64ANS0R123456": "sda", "ata-B_S64ANS0R123456": "sdb"}, None),
        ({}, None),
    ],
)
def test_preseed_stands_still_unless_just_one_disk_has_the_serial(
    tmp_path: Path, links: dict[str, str], disk: str | None
) -> None:
    by_id = tmp_path / "by-id"
    by_id.mkdir()
    for link, name in links.items():
        (tmp_path / name).touch()
        (by_id / link).symlink_to(tmp_path / name)
    script = preseed()["partman/early_command"]
    for was, here in (
        ("/dev/disk/by-id", str(by_id)),
        ("[ -b ", "[ -f "),
        ("while :; do sleep 3600; done", "exit 9"),
        (">/dev/console", ""),
        ("debconf-set", "echo"),
    ):
        assert was in script
        script = script.replace(was, here)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    if disk is None:
        assert done.returncode == 9
        assert "nothing is wiped" in done.stdout
    else:
        assert (done.returncode, done.stdout) == (0, f"partman-auto/disk {tmp_path / disk}\n")


def test_kickstart_writes_its_disk_or_fails(tmp_path: Path, disks: Path) -> None:
    target = tmp_path / "disk.ks"
    script = section(kickstart(), "pre").replace("/tmp/metalserve-disk.ks", str(target))
    for listed in (NONE, TWO):
        disks.write_text(listed)
        assert subprocess.run(["sh", "-c", script], capture_output=True, check=False).returncode == 1
        assert not target.exists()
    disks.write_text(ONE)
    subprocess.run(["sh", "-c", script], check=True)
    lines = target.read_text().splitlines()
    assert lines[0] == "ignoredisk --only-use=nvme1n1"
    assert all("nvme1n1" in line for line in lines if line != "zerombr")


def test_kickstart_says_what_the_specification_says() -> None:
    text = kickstart()
    assert "url --url=https://dl.rockylinux.org/pub/rocky/9/BaseOS/x86_64/os/\n" in text
    assert "repo --name=CRB --baseurl=" in text
    assert "rootpw --lock\n" in text
    assert {"kernel", "openssh-server", "mdadm", "sudo"} <= set(section(text, "packages").split())
    assert "useradd --create-home --shell /bin/bash ops" in section(text, "post")


def finishes() -> dict[str, str]:
    return {
        "ubuntu": autoinstall()["late-commands"][0][-1],
        "debian": finish_of_preseed(preseed()),
        "rocky": section(kickstart(), "post"),
    }


def test_what_runs_at_the_end_is_shell_that_writes_the_first_boot() -> None:
    for name, script in finishes().items():
        assert subprocess.run(["sh", "-n", "-c", script], capture_output=True, check=False).returncode == 0, name
        assert UNVERIFIED in script, name
        assert "metalserve-first-boot.service" in script, name
        for other in ("/etc/machine-id", "80-metalserve-wired.network", "cloud.cfg.d"):
            assert other not in script, (name, other)
        assert "restorecon" in script if name == "rocky" else "restorecon" not in script


def test_what_runs_at_the_end_writes_just_those_files(tmp_path: Path) -> None:
    script = finish_of_preseed(preseed())
    files = script[script.index("install -d -m 0755 /etc/systemd/system") :]
    files = re.sub(r"(?<=[ >])/(?=etc|usr|var)", f"{tmp_path}/", files)
    subprocess.run(["sh", "-euc", files], check=True)
    assert (tmp_path / "usr/local/lib/metalserve/first-boot").stat().st_mode & 0o777 == 0o755
    assert "debian-13" in (tmp_path / UNVERIFIED.lstrip("/")).read_text()


def test_a_first_boot_that_converges_comes_along() -> None:
    first = load_spec("debian-13").first_boot.model_copy(update={"converge": True})
    assert "metalserve-converge.service" in finish_of_preseed(preseed(first_boot=first))
    assert "metalserve-converge.service" not in finish_of_preseed(preseed())


@pytest.mark.parametrize(
    ("hostname", "disk", "words"),
    [
        ("node1;reboot", "S64ANS0R123456", "is no host name"),
        ("", "S64ANS0R123456", "is no host name"),
        ("node1", "", "is no serial number"),
        ("node1", "*", "is no serial number"),
        ("node1", "S64' ; rm -rf /", "is no serial number"),
    ],
)
def test_no_word_of_the_user_reaches_a_shell(hostname: str, disk: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        answers(spec("debian-13"), Target(hostname, disk))


def test_what_nobody_could_log_in_to_is_refused() -> None:
    for users in ([], [UserSpec(name="ops", sudo=True)], [UserSpec(name="ops", authorized_keys=[KEY])]):
        with pytest.raises(TemplateError, match="nobody could log in"):
            answers(spec("debian-13", users=users), TARGET)
    kernel = KernelSpec(files=[PoolFile(path="pool/main/l/linux/a.deb", sha256="0" * 64)])
    with pytest.raises(TemplateError, match="an installer takes a package"):
        answers(spec("debian-13", kernel=kernel), TARGET)


@pytest.mark.skipif(shutil.which("debconf-set-selections") is None, reason="debconf is not installed")
def test_debconf_takes_the_preseed(tmp_path: Path) -> None:
    for name in ("debian-12", "debian-13"):
        file = tmp_path / name
        file.write_text(answers(spec(name), TARGET)["preseed.cfg"])
        done = subprocess.run(["debconf-set-selections", "-c", file], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        file.write_text(file.read_text() + "d-i broken\n")
        assert subprocess.run(["debconf-set-selections", "-c", file], capture_output=True, check=False).returncode != 0


def test_pykickstart_takes_the_kickstart(disks: Path, tmp_path: Path) -> None:
    parser = pytest.importorskip("pykickstart.parser")
    versions = pytest.importorskip("pykickstart.version")
    disks.write_text(ONE)
    for name, version in (("rocky-9", versions.RHEL9), ("rocky-10", versions.RHEL10)):
        text = answers(spec(name), TARGET)["ks.cfg"]
        target = tmp_path / "disk.ks"
        subprocess.run(["sh", "-c", section(text, "pre").replace("/tmp/metalserve-disk.ks", str(target))], check=True)
        handler = versions.makeVersion(version)
        ready = text.replace("%include /tmp/metalserve-disk.ks", target.read_text())
        parser.KickstartParser(handler).readKickstartFromString(ready)
        assert [part.disk for part in handler.partition.partitions] == ["nvme1n1", "nvme1n1"]


def test_the_command_writes_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site.yaml"
    user = {"name": "ops", "sudo": True, "authorized_keys": [KEY]}
    file.write_text(yaml.safe_dump({"extends": "ubuntu-24.04", "users": [user]}))
    monkeypatch.chdir(tmp_path)
    base = Path(__file__).parents[2] / "files/templates/os/ubuntu-24.04.yaml"
    file.write_text(file.read_text().replace("extends: ubuntu-24.04", f"extends: {base}"))
    words = [str(file), "--hostname", "node1", "--disk", "S64ANS0R123456"]
    command.main(args=[*words, "--output", str(tmp_path / "out"), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["files"] == [
        str(tmp_path / "out" / n) for n in ("user-data", "meta-data")
    ]
    command.main(args=words, standalone_mode=False)
    assert (tmp_path / "out" / "user-data").read_text() in capsys.readouterr().out
