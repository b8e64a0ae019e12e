"""`check_node`: is this host what was bought, and is it whole? Pure: values in, findings out."""

from __future__ import annotations

from collections import Counter

from metalserve.catalogue.models import GpuCatalogue, GpuSpec
from metalserve.hardware.node import NodeHardware, PciDevice
from metalserve.settings import ExpectSettings
from metalserve.verify.driver import FABRIC_GUIDE, check_driver
from metalserve.verify.expectation import Expectation, expectation, spec_of
from metalserve.verify.finding import Finding, Status
from metalserve.verify.health import check_gpus
from metalserve.verify.host import check_host
from metalserve.verify.links import check_links, subject
from metalserve.verify.network import check_network
from metalserve.verify.numa import check_numa
from metalserve.verify.storage import check_storage
from metalserve.verify.xids import check_xid_history, check_xids

INVENTORY = "inventory (expect)"
_PCI = "PCI bus (lspci)"


def check_node(hardware: NodeHardware, expect: ExpectSettings, catalogue: GpuCatalogue) -> list[Finding]:
    """Hold a host's hardware against what its PCI ids imply and what the inventory says was bought.

    Args:
        hardware: all observations of the host.
        expect: what was bought; empty means "whatever the PCI ids imply".
        catalogue: GPUs.

    Returns:
        Findings of all checks, also the good ones. What a check needs and could not be read is `unknown`.
    """
    if not hardware.pci_gpus and not hardware.gpus:
        return [_without_gpus(hardware, expect), *check_storage(hardware, expect), *check_machine(hardware, catalogue)]
    expected = expectation(hardware, expect, catalogue)
    findings = [_count(hardware, expected)]
    findings += _models(hardware, expected, catalogue)
    findings += check_driver(hardware)
    findings += _off_the_bus(hardware)
    if hardware.smi_state == "ok":
        findings += check_links(hardware, expected)
        findings += check_gpus(hardware, catalogue)
    findings += check_xids(hardware)
    findings += check_xid_history(hardware)
    findings += check_storage(hardware, expect)
    findings += check_machine(hardware, catalogue)
    findings += _contradictions(hardware)
    return findings


def check_machine(hardware: NodeHardware, catalogue: GpuCatalogue) -> list[Finding]:
    """Check the machine around the GPUs: NUMA, IOMMU and ACS, network, operating system. None of it fails a host."""
    return [*check_numa(hardware, catalogue), *check_network(hardware), *check_host(hardware)]


def _without_gpus(hardware: NodeHardware, expect: ExpectSettings) -> Finding:
    wanted = f"{expect.count} GPU(s)" if expect.count is not None else "GPUs"
    if expect.gpu:
        wanted += f" of model {expect.gpu}"
    if "lspci" in hardware.unread:
        return Finding(
            "gpu-count",
            "unknown",
            "host",
            wanted,
            "the PCI bus could not be read",
            "whether the host has GPUs is not known",
            "run `lspci -Dnn` on the host and read what it says",
            INVENTORY,
        )
    if expect.count == 0:
        return Finding("gpu-count", "ok", "host", wanted, "no NVIDIA GPU on the PCI bus", source=INVENTORY)
    return Finding(
        "gpu-count",
        "fail",
        "host",
        wanted,
        "this host has no NVIDIA GPU on its PCI bus",
        "it cannot serve models",
        "correct the inventory, or look at power, seating and firmware settings of the GPUs",
        INVENTORY,
    )


def _count(hardware: NodeHardware, expected: Expectation) -> Finding:
    on_bus = len(hardware.pci_gpus)
    found = on_bus or len(hardware.gpus)
    where = "on the PCI bus" if on_bus else "shown by nvidia-smi"
    observed = f"{found} GPU(s) {where}"
    if "lspci" in hardware.unread and not on_bus:
        observed += " (the PCI bus could not be read)"
    if expected.count is None:
        if (
            on_bus > 1
            and not hardware.guest
            and expected.spec
            and (hardware.nvswitch_count or expected.spec.fabric == "nvlink5")
        ):
            return _board(on_bus, observed)
        return Finding("gpu-count", "ok", "host", "as many as there are", observed, source=_PCI)
    wanted = f"{expected.count} GPU(s)"
    if found == expected.count:
        return Finding("gpu-count", "ok", "host", wanted, observed, source=INVENTORY)
    fewer = found < expected.count
    return Finding(
        "gpu-count",
        "fail",
        "host",
        wanted,
        observed,
        "the host is not what was bought" + (": a GPU is missing" if fewer else ""),
        "reboot and look again; then check seating, power and riser" if fewer else "correct the inventory",
        INVENTORY,
    )


def _board(on_bus: int, observed: str) -> Finding:
    whole = on_bus % 8 == 0
    return Finding(
        "gpu-count",
        "ok" if whole else "warn",
        "host",
        "8 GPUs on each NVSwitch board",
        observed,
        "" if whole else "a GPU may be missing",
        "" if whole else "look at `lspci -d 10de:` and power; say in the inventory how many were bought",
        FABRIC_GUIDE,
    )


def _models(hardware: NodeHardware, expected: Expectation, catalogue: GpuCatalogue) -> list[Finding]:
    if expected.unknown_gpu:
        return [
            Finding(
                "gpu-model",
                "fail",
                "host",
                "a GPU of the catalogue",
                expected.unknown_gpu,
                "what was bought cannot be checked",
                "correct expect.gpu in the inventory",
                INVENTORY,
            )
        ]
    names: Counter[str] = Counter()
    strangers: list[str] = []
    wrong: list[str] = []
    for device in hardware.pci_gpus:
        spec = catalogue.by_pci_id(device.device_id) or _by_name(hardware, device, catalogue)
        names[spec.id if spec else f"10de:{device.device_id}"] += 1
        if spec is None:
            strangers.append(f"{device.address} [10de:{device.device_id}] {device.description}")
        if expected.bought and spec is not expected.bought:
            wrong.append(f"{device.address} is {spec.id if spec else f'10de:{device.device_id}'}")
    observed = ", ".join(f"{n} x {name}" for name, n in names.items()) or "no GPU on the PCI bus"
    if expected.bought:
        status: Status = "fail" if wrong or not names else "ok"
        return [
            Finding(
                "gpu-model",
                status,
                "host",
                expected.bought.id,
                "; ".join(wrong[:8]) or observed,
                "" if status == "ok" else "the host is not what was bought",
                "" if status == "ok" else "correct expect.gpu in the inventory, or have the cards replaced",
                INVENTORY,
            )
        ]
    if strangers:
        return [
            Finding(
                "gpu-model",
                "warn",
                "host",
                "a GPU of the catalogue",
                "; ".join(strangers[:8]),
                "links, memory and power cannot be held against figures",
                "add it to catalogue/gpus.yaml, and say in the inventory what was bought",
                "catalogue gpus.yaml",
            )
        ]
    if len(names) > 1:
        return [
            Finding(
                "gpu-model",
                "warn",
                "host",
                "one model",
                observed,
                "one replica over unequal GPUs runs at the pace of the slowest",
                "say in the inventory what was bought",
                "catalogue gpus.yaml",
            )
        ]
    return [Finding("gpu-model", "ok", "host", "a GPU of the catalogue", observed, source="catalogue gpus.yaml")]


def _by_name(hardware: NodeHardware, device: PciDevice, catalogue: GpuCatalogue) -> GpuSpec | None:
    gpu = next((g for g in hardware.gpus if g.pci == device.address), None)
    return spec_of(gpu, catalogue) if gpu else None


def _off_the_bus(hardware: NodeHardware) -> list[Finding]:
    seen = {g.pci for g in hardware.gpus}
    findings = []
    for device in hardware.pci_gpus:
        gone = device.revision == "ff"
        lost = hardware.smi_state == "ok" and device.address not in seen
        if not gone and not lost:
            continue
        gpu = next((g for g in hardware.gpus if g.pci == device.address), None)
        findings.append(
            Finding(
                "gpu-present",
                "fail",
                subject(gpu) if gpu else f"GPU {device.address}",
                "every GPU on the PCI bus answers nvidia-smi",
                "it no longer answers the PCI bus (revision ff)" if gone else "nvidia-smi does not show it",
                "the GPU has fallen off the bus or failed to start",
                "reboot the host; if it comes back like this, check seating, riser, power and heat, then replace it",
                "NVIDIA Xid catalogue, Xid 79",
                f"{device.address} {device.description} (rev {device.revision})",
            )
        )
    if not findings and hardware.smi_state == "ok" and hardware.pci_gpus:
        findings.append(
            Finding(
                "gpu-present",
                "ok",
                "host",
                "every GPU on the PCI bus answers nvidia-smi",
                f"all {len(hardware.pci_gpus)} do",
                source=_PCI,
            )
        )
    return findings


def _contradictions(hardware: NodeHardware) -> list[Finding]:
    covered = (
        "is on the PCI bus, but nvidia-smi does not show it",
        "answers the PCI bus with revision ff",
        "Unable to determine the device handle",
    )
    rest = [p for p in hardware.problems if not any(words in p for words in covered)]
    if not rest:
        return []
    return [
        Finding(
            "observation",
            "warn",
            "host",
            "all outputs understood, none contradicting another",
            " | ".join(rest[:6])[:600],
            "some checks had less to go by",
            "run the command by hand; if its output is sound, report it as a parser fault",
            "observation of this host",
        )
    ]
