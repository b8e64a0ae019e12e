"""What a template carries for its first boot: one image, and yet each node made from it has an identity of its own."""

from __future__ import annotations

from typing import Final

from metalserve.paths import FILES
from metalserve.templates.spec import TemplateSpec

SOURCE: Final = FILES / "templates" / "firstboot"
LIBRARY: Final = "/usr/local/lib/metalserve"
UNITS: Final = "/etc/systemd/system"

UNVERIFIED: Final = "/var/lib/metalserve/unverified"
"""While it is there, the engines' gate (files/vllm/gate.sh) starts none: a run that reached the engines removes it."""

Files = dict[str, tuple[int, str]]


def first_boot_files(spec: TemplateSpec) -> Files:
    """Return the files that the first boot needs: path -> (mode, text).

    They go into the tree last, after roles and cleaning: a boot of the tree would use up some of them.

    Args:
        spec: the template's specification; `first_boot` says what is wanted.
    """
    first = spec.first_boot
    wanted = ["metalserve-first-boot.service"]
    files: Files = {
        # Empty, not "uninitialized": that would be a first boot in systemd's sense, which enables units by preset.
        "/etc/machine-id": (0o444, ""),
        # What systemd makes anew after an update (linker cache, hardware and journal catalogues), packages have made.
        "/etc/.updated": (0o644, ""),
        "/var/.updated": (0o644, ""),
        UNVERIFIED: (0o644, f"made from the template {spec.name}; not verified yet\n"),
        f"{LIBRARY}/first-boot": (0o755, _text("first-boot.sh")),
        f"{UNITS}/metalserve-first-boot.service": (
            0o644,
            _text("first-boot.service").replace("@GROW@", "no" if first.cloud_init else "yes"),
        ),
    }
    if spec.os.family == "apt":
        # the RHEL family has sshd-keygen@.service for it
        files[f"{UNITS}/ssh.service.d/50-metalserve.conf"] = (0o644, _text("ssh.conf"))
    if first.cloud_init:
        files["/etc/cloud/cloud.cfg.d/90-metalserve.cfg"] = (0o644, _text("cloud.cfg"))
        if not _by_cloud_init(spec):
            files["/etc/cloud/cloud.cfg.d/91-metalserve-network.cfg"] = (0o644, _text("cloud-network.cfg"))
    if first.network == "dhcp" and spec.os.family == "apt":
        # NetworkManager of the RHEL family asks by DHCP on every wired port that nothing else is said of
        files["/etc/systemd/network/80-metalserve-wired.network"] = (0o644, _text("wired.network"))
        waiting = "systemd-networkd-wait-online.service"
        files[f"{UNITS}/{waiting}.d/50-metalserve.conf"] = (0o644, _text("wait-online.conf"))
        files[f"{UNITS}/network-online.target.d/50-metalserve.conf"] = (0o644, _wants(waiting))
        wanted.append("systemd-networkd.service")
    if first.converge:
        files[f"{LIBRARY}/converge"] = (0o755, _text("converge.sh"))
        files[f"{UNITS}/metalserve-converge.service"] = (0o644, _text("converge.service"))
        wanted.append("metalserve-converge.service")
    # A drop-in, where `systemctl enable` would make a link: this is a list of files.
    files[f"{UNITS}/multi-user.target.d/50-metalserve.conf"] = (0o644, _wants(*wanted))
    return files


def _by_cloud_init(spec: TemplateSpec) -> bool:
    """Tell whether cloud-init shall write the network: where nothing else does."""
    return spec.first_boot.network == "dhcp" and spec.os.family == "dnf"


def _wants(*units: str) -> str:
    return f"# Written by metalserve into the template.\n[Unit]\nWants={' '.join(units)}\n"


def _text(name: str) -> str:
    return (SOURCE / name).read_text()
