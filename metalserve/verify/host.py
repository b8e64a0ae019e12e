"""Checks of the operating system around the GPUs. None fails a host: they say what keeps it from its full speed."""

from __future__ import annotations

from collections.abc import Iterator

from metalserve.catalogue.loader import load_kernel_parameters, threshold
from metalserve.hardware.machine import HostState
from metalserve.hardware.node import NodeHardware
from metalserve.verify.driver import INSTALL_GUIDE
from metalserve.verify.finding import Finding

_OWN = "a container's kernel, clock and CPUs are those of the machine beneath"
_PRACTICE = "general practice, not measured"


def check_host(hardware: NodeHardware) -> list[Finding]:
    """Check kernel command line, huge pages, CPU governor, limits of containers, clock and Secure Boot."""
    host = hardware.host
    if host is None:
        return [_unread()] if "host-state" in hardware.unread else []
    findings = [_machine(host)]
    if host.container:
        rest = ("kernel-cmdline", "hugepages", "governor", "clock-sync")
        findings += [Finding(check, "skipped", "host", "a host of its own", _OWN, source=_OWN) for check in rest]
    else:
        findings += [*_cmdline(host), *_hugepages(host), *_governor(host, guest=hardware.guest), *_clock(host)]
    findings += [*_limits(host, rdma=any(nic.rdma for nic in hardware.nics_detail)), *_secure_boot(hardware, host)]
    return findings


def _unread() -> Finding:
    return Finding(
        "machine",
        "inconclusive",
        "host",
        "the state of the operating system",
        "it could not be read",
        "command line, governor, limits and clock are not known",
        "run the observation again; read /proc and /sys by hand",
        _PRACTICE,
    )


def _machine(host: HostState) -> Finding:
    kind = "container" if host.container else "virtual machine" if host.guest else "bare metal"
    words = "not known" if host.virtual is None else f"{kind} ({host.virtual})" if host.virtual != "none" else kind
    product = f", {host.product}" if host.product else ""
    observed = f"{words}{product}, {host.cpus} CPUs, kernel {host.kernel}"
    return Finding("machine", "ok", "host", "what kind of machine it is", observed, source="systemd-detect-virt(1)")


def _cmdline(host: HostState) -> Iterator[Finding]:
    if host.cmdline is None:
        return
    rules = load_kernel_parameters()
    wanted = "no parameter that harms GPUs"
    words = host.cmdline.partition(" -- ")[0].split()
    hits = [(word, rule) for word in words for rule in rules.parameters if rule.hits(word)]
    if not hits:
        yield Finding("kernel-cmdline", "ok", "host", wanted, "none", source=rules.source, evidence=host.cmdline)
    for word, rule in hits:
        yield Finding(
            "kernel-cmdline", "warn", "host", wanted, word, rule.impact, rule.remedy, rules.source, host.cmdline
        )


def _hugepages(host: HostState) -> Iterator[Finding]:
    total, free, size, memory = host.hugepages_total, host.hugepages_free, host.hugepage_kib, host.memory_kib
    if total is None or free is None or size is None or not memory:
        return
    limit = threshold("hugepages-idle-share")
    idle = free * size / memory
    bad = idle > limit.value
    evidence = f"HugePages_Total: {total}, HugePages_Free: {free}, Hugepagesize: {size} kB, MemTotal: {memory} kB"
    yield Finding(
        "hugepages",
        "warn" if bad else "ok",
        "host",
        f"under {limit.value:.0%} of memory reserved as huge pages that nobody uses",
        f"{idle:.0%} ({total} reserved, {free} free); transparent huge pages {host.thp or 'not known'}",
        "models load more slowly: this memory is lost to the page cache" if bad else "",
        "lower vm.nr_hugepages, or remove hugepages= from the kernel command line" if bad else "",
        limit.source,
        evidence,
        limit,
    )


def _governor(host: HostState, *, guest: bool) -> Iterator[Finding]:
    wanted = "CPU governor performance"
    if not host.governors:
        why = "the kernel does not steer CPU frequencies" + (
            " in a virtual machine" if guest else ": the firmware does"
        )
        yield Finding("governor", "skipped", "host", wanted, why, source=_PRACTICE)
        return
    slow = host.governors != ("performance",)
    yield Finding(
        "governor",
        "warn" if slow else "ok",
        "host",
        wanted,
        ", ".join(host.governors),
        "launching kernels waits for CPUs to speed up: small batches answer more slowly" if slow else "",
        "`cpupower frequency-set -g performance`, and keep it over reboots" if slow else "",
        _PRACTICE,
    )


def _clock(host: HostState) -> Iterator[Finding]:
    wanted = "the clock follows a time server"
    synchronized = host.clock_synchronized
    if synchronized is None:
        yield Finding(
            "clock-sync",
            "inconclusive",
            "host",
            wanted,
            "neither chronyc nor timedatectl answer",
            "times in logs and certificates may be wrong",
            "install chrony (role base does)",
            _PRACTICE,
            host.clock_evidence,
        )
        return
    yield Finding(
        "clock-sync",
        "ok" if synchronized else "warn",
        "host",
        wanted,
        "it does" if synchronized else "it does not",
        "" if synchronized else "logs of several nodes cannot be put in order; certificates may be refused",
        "" if synchronized else "look at `chronyc sources`; allow UDP port 123 to the time servers",
        _PRACTICE,
        host.clock_evidence,
    )


def _limits(host: HostState, *, rdma: bool) -> Iterator[Finding]:
    wanted = "containers may open many files" + (" and lock memory without limit" if rdma else "")
    if host.docker_nofile is None:
        return  # no Docker: what limits a container is not decided yet
    limit = threshold("container-files")
    few = host.docker_nofile.isdigit() and int(host.docker_nofile) < limit.value
    locked = rdma and _small(host.docker_memlock)
    observed = f"LimitNOFILE {host.docker_nofile}, LimitMEMLOCK {host.docker_memlock or 'not known'}"
    harms = [*["connections are refused under load"] * few, *["RDMA cannot register its buffers"] * locked]
    yield Finding(
        "ulimits",
        "warn" if harms else "ok",
        "host",
        wanted,
        observed,
        ", and ".join(harms),
        "raise DefaultLimitNOFILE and DefaultLimitMEMLOCK for systemd (role base does), then restart Docker"
        if harms
        else "",
        limit.source,
        observed,
        limit,
    )


def _small(memlock: str | None) -> bool:
    # systemd's own default is 8 MiB; a size in gigabytes was set by somebody who knew why.
    return memlock is not None and memlock.isdigit() and int(memlock) < 1 << 30


def _secure_boot(hardware: NodeHardware, host: HostState) -> Iterator[Finding]:
    if host.secure_boot is None or host.container:
        return
    unloaded = host.secure_boot and bool(hardware.pci_gpus) and hardware.module_version is None
    yield Finding(
        "secure-boot",
        "warn" if unloaded else "ok",
        "host",
        "a kernel module that Secure Boot lets load",
        "Secure Boot is on, and no nvidia module is loaded"
        if unloaded
        else f"Secure Boot is {'on' if host.secure_boot else 'off'}",
        "a module without an enrolled key is refused" if unloaded else "",
        "use signed modules, enrol the key (`mokutil --import`) or turn Secure Boot off" if unloaded else "",
        INSTALL_GUIDE,
    )
