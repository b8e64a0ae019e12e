"""What makes a fresh Debian tree a lab host: network, SSH, apt sources, and the few repairs a container needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from metalserve.lab.layout import Layout
from metalserve.lab.system import run

# These cannot work in a container, and would make the host "degraded" or wait for hardware.
MASKED = (
    "chrony-wait.service", "console-getty.service", "e2scrub_all.timer", "e2scrub_reap.service",
    "getty@tty1.service", "nvmefc-boot-connections.service", "nvmf-autoconnect.service",
    "systemd-binfmt.service", "systemd-firstboot.service", "systemd-networkd-wait-online.service",
    "systemd-remount-fs.service", "systemd-udev-trigger.service", "systemd-udevd.service",
    "user@.service",  # on version 1 control groups its end hangs for two minutes (Debian 13), and logins with it
)  # fmt: skip

# Packages write tuning files for values that only the machine may set; a guest gets its own copy of /proc/sys.
PREPARE = """\
#!/bin/sh
# metalserve lab: what a container lacks of a host, put right before anything else starts.

# Control groups: on a machine with version 1 controllers they come read-only, and Docker must write there.
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
  mount -o remount,rw /sys/fs/cgroup
  for directory in /sys/fs/cgroup/*/; do
    directory=${directory%/}
    [ -L "$directory" ] || mount -o remount,rw,bind "$directory" 2>/dev/null
  done
fi

# Kernel settings: those of the machine are not ours to change, so the host sees and writes a copy of its own
# (simulated: nothing below acts on the kernel). Network settings are the host's own and stay real.
copy=/run/metalserve-lab/sysctl
mkdir -p "$copy"
for tree in vm fs kernel; do
  [ -d "$copy/$tree" ] && continue
  cp -r --no-preserve=ownership "/proc/sys/$tree" "$copy/" 2>/dev/null
  chmod -R u+w "$copy/$tree"
  # These answer anew on each read, or belong to this host already.
  for real in kernel/random kernel/hostname kernel/domainname kernel/ns_last_pid fs/binfmt_misc; do
    case $real in "$tree"/*) ;; *) continue ;; esac
    [ -e "/proc/sys/$real" ] || continue
    [ ! -d "/proc/sys/$real" ] || [ -d "$copy/$real" ] || mkdir "$copy/$real"
    mount --rbind "/proc/sys/$real" "$copy/$real"  # with what systemd-nspawn put there: a boot_id of its own
  done
  mount --rbind "$copy/$tree" "/proc/sys/$tree"
done
exit 0
"""

PREPARE_UNIT = """\
[Unit]
Description=metalserve lab: prepare this container to be a host
DefaultDependencies=no
Wants=local-fs-pre.target
Before=local-fs-pre.target sysinit.target systemd-sysctl.service docker.service ssh.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/metalserve-lab-prepare

[Install]
WantedBy=sysinit.target
"""

# Where the machine's own root may not raise limits (a small virtual machine, say), a container that asks for
# unlimited locked memory, as every GPU container does, would not start: it gets what there is instead.
RUNC = """\
#!/usr/bin/python3 -IS
# metalserve lab: hands everything to the real runc; limits above this machine's own are lowered to them.
import json, os, resource, sys

words = sys.argv[1:]
if "create" in words or "run" in words:
    place = "."
    for number, word in enumerate(words):
        if word in ("--bundle", "-b"):
            place = words[number + 1]
        elif word.startswith("--bundle="):
            place = word.split("=", 1)[1]
    path = os.path.join(place, "config.json")
    with open(path) as stream:
        config = json.load(stream)
    for limit in config.get("process", {}).get("rlimits", []):
        highest = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if highest != resource.RLIM_INFINITY:
            limit["hard"] = min(limit["hard"], highest)
            limit["soft"] = min(limit["soft"], highest)
    with open(path, "w") as stream:
        json.dump(config, stream)
os.execv("/usr/sbin/runc", ["runc", *words])
"""

NETWORK = """\
[Match]
Name=host0

[Link]
RequiredForOnline=yes

[Network]
Address={address}/24
Gateway={gateway}
LinkLocalAddressing=no
IPv6AcceptRA=no
"""

SSHD = """\
PermitRootLogin prohibit-password
PasswordAuthentication no
UseDNS no
# a converging run opens several sessions at once
MaxStartups 100
MaxSessions 100
"""

# Time: a host must not touch the machine's clock (it has no CAP_SYS_TIME), so the daemons run without it.
CHRONY = """\
[Unit]
ConditionCapability=
ConditionVirtualization=

[Service]
ExecStart=
ExecStart=!/usr/sbin/chronyd -x $DAEMON_OPTS
"""
TIMESYNCD = """\
[Unit]
ConditionCapability=
ConditionVirtualization=

[Service]
AmbientCapabilities=
CapabilityBoundingSet=
"""


def configure(root: Path, layout: Layout, suite: str) -> None:
    """Write the lab's files into a root file system (same for all hosts of a suite).

    Args:
        root: the root file system, writable.
        layout: the lab it will belong to.
        suite: Debian release.
    """
    units = root / "etc/systemd/system"
    for unit in MASKED:
        link = units / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    for unit, text in (("chrony", CHRONY), ("systemd-timesyncd", TIMESYNCD)):
        _write(units / f"{unit}.service.d/10-metalserve-lab.conf", text)
    _write(root / "usr/local/sbin/metalserve-lab-prepare", PREPARE, mode=0o755)
    _write(units / "metalserve-lab-prepare.service", PREPARE_UNIT)
    _write(root / "etc/ssh/sshd_config.d/10-metalserve-lab.conf", SSHD)
    _write(root / "etc/resolv.conf", "# a lab host knows the other hosts by /etc/hosts, and nothing else\n")
    _write(root / "etc/fstab", "")
    if (root / "etc/cloud").is_dir():  # a template's: it would give the host keys that nobody knows
        _write(root / "etc/cloud/cloud-init.disabled", "")
    if not may_raise_limits():
        _write(root / "usr/local/sbin/runc", RUNC, mode=0o755)
    point_apt(root, layout, suite)
    for pattern in ("etc/ssh/ssh_host_*", "etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname"):
        for path in root.glob(pattern):
            path.unlink()
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_OFFLINE": "1", "LC_ALL": "C.UTF-8"}
    for unit in ("systemd-networkd.service", "metalserve-lab-prepare.service", "ssh.service"):
        run(["chroot", root, "systemctl", "enable", unit], env=environment)


def may_raise_limits(status: Path = Path("/proc/self/status")) -> bool:
    """Tell whether root may raise resource limits on this machine (CAP_SYS_RESOURCE, bit 24)."""
    for line in status.read_text().splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> 24 & 1)
    return True


def point_apt(root: Path, layout: Layout, suite: str) -> None:
    """Point apt at the lab's mirror and nothing else; what a template has of the lab's other repositories stays."""
    for path in [root / "etc/apt/sources.list", *(root / "etc/apt/sources.list.d").glob("*")]:
        if not path.is_file() or layout.service_url not in path.read_text():
            path.unlink(missing_ok=True)
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    _write(
        root / "etc/apt/sources.list.d/metalserve-lab.sources",
        "# The part of Debian that the lab carries, copied when the lab was built.\n"
        f"Types: deb\nURIs: {layout.service_url}/distribution/{suite}/\nSuites: ./\n"
        "Signed-By: /usr/share/keyrings/metalserve-lab.asc\n",
    )
    # installed packages must not be written through to the disk: a lab host lives for an hour
    _write(root / "etc/dpkg/dpkg.cfg.d/metalserve-lab", "force-unsafe-io\n")
    (root / "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)
    _write(root / "etc/apt/apt.conf.d/99metalserve-lab", 'Acquire::Languages "none";\n')


def personalise(root: Path, layout: Layout, *, name: str, address: str, hosts: dict[str, str]) -> None:
    """Write what belongs to one host.

    Args:
        root: the host's root file system, writable.
        layout: its lab.
        name: host name.
        address: its IPv4 address.
        hosts: all hosts of the lab, name -> address.
    """
    _write(root / "etc/hostname", f"{name}\n")
    lines = ["127.0.0.1 localhost", "::1 localhost", f"{layout.service_address} lab"]
    lines += [f"{where} {who}" for who, where in hosts.items()]
    _write(root / "etc/hosts", "\n".join(lines) + "\n")
    # the name sorts before 80-container-host0.network, which would otherwise win
    _write(root / "etc/systemd/network/10-lab.network", NETWORK.format(address=address, gateway=layout.service_address))
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    _write(root / "root/.ssh/authorized_keys", layout.ssh_key.with_suffix(".pub").read_text(), mode=0o600)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a link in the tree must not lead out of it
    path.write_text(text)
    path.chmod(mode)
