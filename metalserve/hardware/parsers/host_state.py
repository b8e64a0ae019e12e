"""State of the operating system (lines `key=value`), NUMA nodes of sysfs, and /proc/mdstat."""

from __future__ import annotations

import re

from metalserve.hardware.machine import HostState, NumaNode, RaidArray
from metalserve.hardware.parsers.text import ParseError, clean, first_line, integer

_LINE = re.compile(r"([a-z_]{1,32})=(.*)")
_CPUS = re.compile(r"node(\d{1,4})/cpulist:(.*)")
_MEMORY = re.compile(r"node(\d{1,4})/meminfo:.{0,60}?MemTotal:\s+(\d{1,15}) kB")
_ARRAY = re.compile(r"(md[\w-]{1,32}) : (?:active|inactive)(?: \([a-z-]{1,20}\))*(?: (raid\d{1,2}|linear|multipath))?")
_MEMBERS = re.compile(r"\[(\d{1,4})/(\d{1,4})\]\s+\[[U_]{1,400}\]")
_THP = re.compile(r"\[(\w{1,16})\]")
_SECRET = re.compile(r"(\S*(?:key|passw|secret|token|credential)[^\s=]*)=\S+", re.IGNORECASE)
_FALSE = ("0", "no", "false")
_TRUE = ("1", "yes", "true")


def parse_host_state(text: str) -> HostState:
    """Read what the command `host-state` prints.

    Raises:
        ParseError: no line of it.
    """
    values: dict[str, str] = {}
    for line in clean(text).splitlines():
        found = _LINE.fullmatch(line.strip())
        if found:
            values.setdefault(found.group(1), found.group(2).strip())
    if "kernel" not in values:
        raise ParseError(f"no `kernel=` line of the host's state; the text begins with {first_line(text)!r}")
    virtual = values.get("virt") or None
    if virtual is None and values.get("hypervisor") in _TRUE:
        virtual = "vm-other"  # the word of systemd-detect-virt for a hypervisor that it does not know
    cmdline = values.get("cmdline")
    thp = _THP.search(values.get("thp", ""))
    clock = values.get("clock", "")
    return HostState(
        kernel=values["kernel"] or None,
        cmdline=None if cmdline is None else without_secrets(cmdline),
        virtual=virtual,
        product=values.get("product") or None,
        cpus=integer(values.get("cpus")),
        governors=tuple(values.get("governors", "").split()),
        memory_kib=integer(values.get("memory_kib")),
        hugepages_total=integer(values.get("hugepages_total")),
        hugepages_free=integer(values.get("hugepages_free")),
        hugepage_kib=integer(values.get("hugepage_kib")),
        thp=thp.group(1) if thp else None,
        docker_memlock=values.get("docker_memlock") or None,
        docker_nofile=values.get("docker_nofile") or None,
        clock_synchronized=_clock(clock),
        clock_evidence=clock,
        secure_boot=_truth(values.get("secure_boot")),
        iommu_units=integer(values.get("iommu_units")),
    )


def without_secrets(cmdline: str) -> str:
    """Return a kernel command line as reports may show it: values of keys, passwords and tokens are stars."""
    return _SECRET.sub(r"\1=***", cmdline)


def _truth(value: str | None) -> bool | None:
    word = (value or "").lower()
    return True if word in _TRUE else False if word in _FALSE else None


def _clock(said: str) -> bool | None:
    """Read `Leap status : Normal` of chronyc, or `NTPSynchronized=yes` of timedatectl."""
    key, _, value = said.partition("=" if "=" in said else ":")
    if key.strip() == "Leap status":
        return value.strip() != "Not synchronised"
    return _truth(value.strip()) if key.strip() == "NTPSynchronized" else None


def parse_numa(text: str) -> tuple[NumaNode, ...]:
    """Read `nodeN/cpulist` and the `MemTotal` lines of `nodeN/meminfo`.

    Raises:
        ParseError: no node in it.
    """
    text = clean(text)
    memory = {int(n): int(kib) // 1024 for n, kib in _MEMORY.findall(text)}
    found = {int(n): cpus.strip() for n, cpus in _CPUS.findall(text)}
    if not found:
        raise ParseError(f"no NUMA node; the text begins with {first_line(text)!r}")
    return tuple(NumaNode(n, found[n], memory.get(n)) for n in sorted(found))


def parse_mdstat(text: str) -> tuple[RaidArray, ...]:
    """Read /proc/mdstat; a machine without arrays gives none.

    Raises:
        ParseError: it is not /proc/mdstat.
    """
    lines = clean(text).splitlines()
    if not any(line.startswith(("Personalities", "unused devices")) for line in lines):
        raise ParseError(f"not /proc/mdstat; the text begins with {first_line(text)!r}")
    arrays = []
    for number, line in enumerate(lines):
        head = _ARRAY.match(line)
        if not head:
            continue
        detail = lines[number + 1] if number + 1 < len(lines) else ""
        members = _MEMBERS.search(detail)
        arrays.append(
            RaidArray(
                head.group(1),
                head.group(2) or "inactive",
                int(members.group(1)) if members else None,
                int(members.group(2)) if members else None,
                f"{line.strip()} / {detail.strip()}"[:400],
            )
        )
    return tuple(arrays)
