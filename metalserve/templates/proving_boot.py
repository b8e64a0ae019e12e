"""What a machine that was booted from an image says of itself, judged: identity, units, growth. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from metalserve.errors import MetalserveError
from metalserve.paths import FILES
from metalserve.verify.finding import Finding, Status

LOOK = FILES / "templates" / "proving" / "look.sh"

UNIQUE: tuple[tuple[str, str, str], ...] = (
    ("machine-id", "machine-id", "journals, DHCP leases and the container runtime confuse the nodes"),
    ("host-keys", "SSH host keys", "whoever has one node's key can pretend to be any of them"),
    ("hostnqn", "NVMe host name", "a node takes over the NVMe over fabrics connections of another"),
    ("hostid", "NVMe host id", "a node takes over the NVMe over fabrics connections of another"),
    ("random-seed", "random seed", "two nodes begin with the same random numbers"),
)
"""Section of `look.sh`, its name, and what happens when two nodes have the same."""

GROWN = 0.9
"""Share of its disk that the root file system has when it was grown: partitions and ext4's own tables take some."""


@dataclass(frozen=True)
class Booted:
    """A boot of the image.

    Attributes:
        ssh_s: seconds from power-on until a command ran over SSH.
        said: section of `look.sh` -> what it said.
        drives: serial numbers of the drives that the machine was given.
        hostname: name that the seed gave it.
    """

    ssh_s: float
    said: Mapping[str, str]
    drives: Sequence[str]
    hostname: str


def sections(output: str) -> dict[str, str]:
    """Return what `look.sh` printed, by section.

    Raises:
        MetalserveError: it is not all there.
    """
    parts = re.split(r"^== ([a-z-]+)\n", output, flags=re.MULTILINE)
    found = {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    if "end" not in found:
        raise MetalserveError("what the machine says of itself breaks off", where="template test")
    return found


def judge_boots(boots: Sequence[Booted], simulated: str) -> list[Finding]:
    """Return what two (or more) boots of copies of an image show.

    Args:
        boots: the boots.
        simulated: what the machine was, in words: it is named as the source.
    """
    found = [finding for number, boot in enumerate(boots, 1) for finding in _one(boot, f"boot {number}", simulated)]
    return [*found, *_unique(boots, simulated)]


def _one(boot: Booted, subject: str, source: str) -> Iterator[Finding]:
    def say(check: str, status: Status, expected: str, observed: str, impact: str, remedy: str) -> Finding:
        bad = status != "ok"
        return Finding(
            f"template-{check}",
            status,
            subject,
            expected,
            observed,
            impact=impact if bad else "",
            remedy=remedy if bad else "",
            source=source,
        )

    said = boot.said
    cloud = said.get("cloud-init", "")
    status = next((line.split(":", 1)[1].strip() for line in cloud.splitlines() if line.startswith("status:")), "")
    errors = re.search(r"^errors: (?!\[\])(.*)$", cloud, re.MULTILINE)
    good = status == "done" and errors is None
    words = (
        "none installed" if cloud == "none" else (status or "no answer") + (f", errors: {errors[1]}" if errors else "")
    )
    yield say(
        "cloud-init", "skipped" if cloud == "none" else "ok" if good else "unknown" if not status else "fail",
        "cloud-init is done, without errors", words, "what the provider gives (keys, name, network) is not applied",
        "read `cloud-init status --long` and /var/log/cloud-init.log on the machine",
    )  # fmt: skip
    failed = said.get("failed", "").split()
    state = said.get("state", "")
    yield say(
        "failed-units", "fail" if failed else "ok" if state == "running" else "unknown", "running, no failed unit",
        f"{state or 'unknown'}; failed: {', '.join(failed) or 'none'}", "a part of the system works on no node",
        f"journalctl -u {failed[0] if failed else 'UNIT'} on the machine; mask it in the template if no node needs it",
    )  # fmt: skip
    cycles = said.get("cycles")
    yield say(
        "ordering", "unknown" if cycles is None else "fail" if cycles else "ok", "no ordering cycle among the units",
        "not read" if cycles is None else cycles.splitlines()[0] if cycles else "none",
        "systemd leaves out units that the node needs, other ones at each boot",
        "`journalctl -b | grep cycle` names the units; a unit that runs early needs DefaultDependencies=no",
    )  # fmt: skip
    lost = said.get("unmounted")
    yield say(
        "mounts", "unknown" if lost is None else "fail" if lost else "ok", "all that fstab names is mounted",
        "not read" if lost is None else f"not mounted: {', '.join(lost.split())}" if lost else "it is",
        "the boot waits for a file system that never comes, and an update of the boot loader goes nowhere",
        "compare /etc/fstab with `lsblk -f` on the machine",
    )  # fmt: skip
    disk, root = _number(said.get("root-disk")), _number(said.get("root-bytes"))
    share = root / (disk * 512) if disk and root else None
    yield say(
        "growth", "unknown" if share is None else "ok" if share >= GROWN else "fail",
        f"root has at least {GROWN:.0%} of its disk", "not read" if share is None else f"{share:.0%}",
        "the disk of every node stays as small as the image's",
        "cloud-init's growpart and resizefs, or first-boot's own",
    )  # fmt: skip
    seen = [line.split()[0] for line in said.get("drives", "").splitlines() if line.split()]
    missing = [serial for serial in boot.drives if serial not in seen]
    yield say(
        "drives", "fail" if missing else "ok", f"NVMe drives {', '.join(boot.drives)}", ", ".join(seen) or "none",
        "the node does not find its drives", "has the image's kernel the module nvme?",
    )  # fmt: skip
    name = said.get("hostname", "")
    yield say(
        "hostname", "skipped" if cloud == "none" else "ok" if name == boot.hostname else "fail",
        f"takes the name {boot.hostname}",
        name or "not read", "the node does not take the name that it is given", "read /var/log/cloud-init.log",
    )  # fmt: skip
    yield say(
        "serves-nothing", "ok" if said.get("unverified") else "fail", "marked as not verified",
        said.get("unverified") or "no mark", "engines would start on a node that nobody has proved",
        "the template lacks the files of metalserve/templates/firstboot.py",
    )  # fmt: skip


def _unique(boots: Sequence[Booted], source: str) -> Iterator[Finding]:
    if len(boots) < 2:
        return
    for section, name, impact in UNIQUE:
        values = [set(boot.said.get(section, "").splitlines()) for boot in boots]
        common = set.intersection(*values) if values else set()
        absent = any(not each for each in values)
        optional = absent and section in ("hostnqn", "hostid") and not any(values)
        status: Status = "skipped" if optional else "unknown" if absent else "fail" if common else "ok"
        observed = {
            "skipped": "there is none",
            "unknown": "not read from every boot",
            "fail": f"the same on {len(boots)} nodes",
        }.get(status, "each its own")
        yield Finding(
            "template-identity",
            status,
            name,
            "another one on each node",
            observed,
            impact=impact if status in ("fail", "unknown") else "",
            remedy="the image must not carry it; see metalserve/templates/clean.py" if status == "fail" else "",
            source=source,
            evidence=min(common, default="")[:100],
        )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None
