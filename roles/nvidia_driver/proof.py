"""Whether the driver that was chosen is the one that runs: pure."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.node import Node
from metalserve.hardware.node import NodeHardware
from metalserve.verify.finding import Finding
from roles.nvidia_driver.chosen import plan, wanted_version


def findings(node: Node) -> Sequence[Finding]:
    """Prove that the driver answers and is the release's own, in the kernel and in user space alike."""
    hardware, wanted = node.hardware, wanted_version(node) or "of the distribution's archive"
    return (
        *(_warning(node, text) for text in plan(node).warnings),
        Finding(
            check="driver-answers",
            status="ok" if hardware.smi_state == "ok" else "fail",
            subject=node.name,
            expected="nvidia-smi talks to the driver",
            observed=_smi_words(hardware),
            impact="no GPU can be used",
            remedy="read `dmesg | grep -i nvrm`; a GPU that does not come up after a reboot needs a power cycle",
            source="nvidia-smi",
        ),
        _version(node, "driver-loaded", "the kernel", hardware.module_version, wanted),
        _version(node, "driver-user-space", "user space", hardware.driver_version, wanted),
    )


def _smi_words(hardware: NodeHardware) -> str:
    if hardware.smi_state == "ok":
        return f"it does, {len(hardware.gpus)} GPU(s)"
    first = hardware.smi_message.strip().splitlines()
    return f"{hardware.smi_state}: {first[0]}" if first else hardware.smi_state


def _version(node: Node, check: str, where: str, found: str | None, wanted: str) -> Finding:
    return Finding(
        check=check,
        status="ok" if found == wanted else "fail",
        subject=node.name,
        expected=f"driver {wanted} in {where}",
        observed=found or "none",
        impact="CUDA refuses to start when kernel and user space differ",
        remedy="run roles.nvidia_driver again; it reboots the host where the kernel holds the old module",
        source="/proc/driver/nvidia/version, nvidia-smi",
    )


def _warning(node: Node, text: str) -> Finding:
    return Finding(
        check="driver-choice",
        status="warn",
        subject=node.name,
        expected="a supported branch and known GPUs",
        observed=text,
        impact="",
        remedy="",
        source="catalogue",
    )


__all__ = ["findings"]
