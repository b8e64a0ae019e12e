"""What is concluded from an image's tree and from two boots of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.templates.firstboot import UNVERIFIED
from metalserve.templates.proving_boot import LOOK, UNIQUE, Booted, judge_boots, sections
from metalserve.templates.proving_image import judge_tree
from metalserve.templates.proving_roles import inventory_text
from metalserve.templates.qemu import Drive, Machine, MachineSpec
from metalserve.templates.qemu_ssh import Shell
from metalserve.templates.spec import load_spec
from metalserve.verify.finding import Finding

GOOD = {
    "cloud-init": "status: done\nextended_status: done\nboot_status_code: enabled-by-generator\nerrors: []",
    "state": "running",
    "failed": "",
    "cycles": "",
    "unmounted": "",
    "machine-id": "a",
    "host-keys": "ssh-ed25519 AAAA1\nssh-rsa AAAA2",
    "hostnqn": "nqn.2014-08.org.nvmexpress:uuid:1",
    "hostid": "1",
    "random-seed": "d1",
    "hostname": "copy-1",
    "root-bytes": str(950 << 20),
    "root-disk": str((1000 << 20) // 512),
    "drives": "ROOT1 2048000\nDATA1 2097152",
    "unverified": "made from the template debian-13; not verified yet",
}
OTHER = {
    "machine-id": "b",
    "host-keys": "ssh-ed25519 BBBB1\nssh-rsa BBBB2",
    "hostnqn": "nqn.2014-08.org.nvmexpress:uuid:2",
    "hostid": "2",
    "random-seed": "d2",
    "hostname": "copy-2",
}


def boots(first: dict[str, str] | None = None, second: dict[str, str] | None = None) -> list[Booted]:
    return [
        Booted(60.0, {**GOOD, **(first or {})}, ["ROOT1", "DATA1"], "copy-1"),
        Booted(61.0, {**GOOD, **OTHER, **(second or {})}, ["ROOT1"], "copy-2"),
    ]


def bad(findings: list[Finding]) -> dict[str, str]:
    return {f"{f.check} {f.subject}": f.status for f in findings if f.failing}


def test_two_good_boots_are_good() -> None:
    findings = judge_boots(boots(), "QEMU")
    assert bad(findings) == {}
    assert len(findings) == 2 * 8 + len(UNIQUE)
    assert all(f.source == "QEMU" and not f.remedy and not f.impact for f in findings)


@pytest.mark.parametrize(
    ("said", "check", "status"),
    [
        ({"cloud-init": "status: error\nerrors:\n\t- locale"}, "template-cloud-init", "fail"),
        ({"cloud-init": "status: done\nerrors: [x]"}, "template-cloud-init", "fail"),
        ({"cloud-init": ""}, "template-cloud-init", "unknown"),
        ({"failed": "nvmf-autoconnect.service", "state": "degraded"}, "template-failed-units", "fail"),
        ({"state": ""}, "template-failed-units", "unknown"),
        (
            {"cycles": "basic.target: Job sockets.target/start deleted to break ordering cycle"},
            "template-ordering",
            "fail",
        ),
        ({"unmounted": "/boot/efi"}, "template-mounts", "fail"),
        ({"root-bytes": str(500 << 20)}, "template-growth", "fail"),
        ({"root-disk": ""}, "template-growth", "unknown"),
        ({"drives": "ROOT1 2048000"}, "template-drives", "fail"),
        ({"hostname": "localhost"}, "template-hostname", "fail"),
        ({"unverified": ""}, "template-serves-nothing", "fail"),
    ],
)
def test_what_is_wrong_with_a_boot_is_found(said: dict[str, str], check: str, status: str) -> None:
    assert bad(judge_boots(boots(said), "QEMU")) == {f"{check} boot 1": status}


def test_an_image_without_cloud_init_is_not_asked_for_it() -> None:
    said = {"cloud-init": "none", "hostname": "localhost"}
    assert bad(judge_boots(boots(said, said), "QEMU")) == {}


@pytest.mark.parametrize(("section", "name", "_impact"), UNIQUE)
def test_what_two_nodes_share_is_found(section: str, name: str, _impact: str) -> None:
    shared = judge_boots(boots(second={section: GOOD[section].splitlines()[0]}), "QEMU")
    assert bad(shared) == {f"template-identity {name}": "fail"}
    finding = next(f for f in shared if f.failing)
    assert finding.observed == "the same on 2 nodes" and finding.evidence
    unread = bad(judge_boots(boots(second={section: ""}), "QEMU"))
    assert unread == {f"template-identity {name}": "unknown"}


def test_a_node_without_nvme_over_fabrics_needs_no_name_for_it() -> None:
    nothing = {"hostnqn": "", "hostid": ""}
    assert bad(judge_boots(boots(nothing, nothing), "QEMU")) == {}


def test_sections_are_read_and_must_be_whole() -> None:
    assert sections("noise\n== state\nrunning\n\n== failed\n\n== end\n") == {
        "state": "running",
        "failed": "",
        "end": "",
    }
    with pytest.raises(MetalserveError, match="breaks off"):
        sections("== state\nrunning\n")
    named = [line.split()[1] for line in LOOK.read_text().splitlines() if line.startswith("say ")]
    assert set(GOOD) < set(named) and named[-1] == "end"
    assert UNVERIFIED in LOOK.read_text()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in (
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        ("etc/shadow", "root:*:1:0:99999:7:::\ndaemon:!:1::::::\nsshd:!*:1::::::\n"),
        ("etc/machine-id", ""),
        ("etc/ssl/certs/ca.pem", "-----BEGIN CERTIFICATE-----\n"),
        ("var/log/wtmp", ""),
        ("root/.ssh/authorized_keys", "ssh-ed25519 AAAA me\n"),
    ):
        add(tmp_path, name, text)
    return tmp_path


def add(tree: Path, name: str, text: str) -> None:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_clean_tree_is_good(tree: Path) -> None:
    assert [f.status for f in judge_tree(tree)] == ["ok"] * 4


@pytest.mark.parametrize(
    ("name", "text", "check"),
    [
        ("etc/ssh/ssh_host_ed25519_key", "x", "template-host-keys"),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n", "template-host-keys"),
        ("etc/nvme/hostnqn", "nqn\n", "template-host-keys"),
        ("var/lib/systemd/random-seed", "x", "template-host-keys"),
        ("root/.bash_history", "ls\n", "template-traces"),
        ("var/log/apt/term.log", "x", "template-logs"),
        ("var/log/journal/abc/system.journal", "x", "template-logs"),
        ("root/.ssh/id_ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----\nAA\n", "template-secrets"),
        ("opt/app/settings", "token = hf_" + "a" * 34, "template-secrets"),
        ("etc/environment", "AWS_ACCESS_KEY_ID=AKIA" + "A1B2C3D4E5F6G7H8", "template-secrets"),
        ("etc/shadow", "root:$y$j9T$abc:1::::::\n", "template-secrets"),
        ("etc/shadow", "root::1::::::\n", "template-secrets"),
    ],
)
def test_what_an_image_must_not_carry_is_found(tree: Path, name: str, text: str, check: str) -> None:
    add(tree, name, text)
    findings = judge_tree(tree)
    assert {f.check for f in findings if f.failing} == {check}
    assert f"/{name}" in next(f for f in findings if f.failing).observed


def test_a_machine_s_boot_order_is_what_was_asked(tmp_path: Path) -> None:
    drives = (Drive("a.raw", "A1"), Drive("b.qcow2", "B2", "qcow2"))
    words = " ".join(MachineSpec(drives, system=1, boot="network", cd="x.iso", ssh_port=2222).command())
    assert "-accel tcg" in words and "kvm" not in words
    assert "type=11,value=io.systemd.stub.kernel-cmdline-extra=no_timer_check " in words
    assert "nvme,drive=d1,serial=B2,bootindex=2" in words and "nvme,drive=d0,serial=A1,bootindex=10" in words
    assert "mac=52:54:00:6d:73:01,bootindex=1" in words and "ide-cd,drive=cd,bootindex=4" in words
    assert "restrict=on,hostfwd=tcp:127.0.0.1:2222-:22" in words
    assert "bootindex=1 " in " ".join(MachineSpec(drives, boot="cd", cd="x.iso").command()) + " "


def test_the_inventory_of_the_machine_has_the_template_s_settings(tmp_path: Path) -> None:
    spec = load_spec("debian-13-base")
    found: dict[str, list[tuple[str, dict[str, object]]]] = {}
    exec(inventory_text(spec, Shell(tmp_path / "key", port=2222)), found)
    name, data = found["image"][0]
    assert name == spec.name and data["release"] == spec.release
    assert (data["ssh_hostname"], data["ssh_port"], data["ssh_user"]) == ("127.0.0.1", 2222, "root")


def test_a_machine_whose_timer_the_busy_host_kept_still_is_reset_once_for_each_time(tmp_path: Path) -> None:
    sent: list[str] = []

    class Silent(Machine):
        def qmp(self, command: str, **arguments: object) -> None:
            sent.append(command)

    machine = Silent(MachineSpec((Drive("a.raw", "A1"),)), tmp_path, subprocess.Popen(["true"]))
    machine.process.wait()
    log = tmp_path / "serial.log"
    log.write_text(
        "Kernel panic - not syncing: VFS: unable to mount root\n---[ end Kernel panic - not syncing: VFS ]---\n"
    )
    machine.revive()
    assert sent == []
    words = "Kernel panic - not syncing: IO-APIC + timer doesn't work!  Boot with apic=debug and send a report."
    for times in (1, 2):
        with log.open("a") as stream:
            stream.write(f"[    0.07] {words}\n[    0.07] ---[ end {words} ]---\n")
        machine.revive()
        machine.revive()
        assert sent == ["system_reset"] * times
    assert machine.resets == 2
