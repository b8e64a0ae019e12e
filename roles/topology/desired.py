"""What `topology` demands of a host: pure. It wants nothing changed, so there is no `Desired` here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from metalserve.catalogue.loader import load_gpus
from metalserve.desired.model import Watch
from metalserve.desired.node import Node
from metalserve.hardware.node import NodeHardware
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding
from metalserve.verify.topology import check_node


def watch(settings: HostSettings, release: Release) -> Watch:
    """Nothing beside what every observation asks of the hardware."""
    return Watch()


def check(node: Node) -> Sequence[Finding]:
    """Hold the hardware against what the inventory says was bought and what the catalogue says of such GPUs.

    Raises:
        NotYetKnown: nvidia-smi does not talk to a driver yet.
    """
    if node.hardware.pci_gpus:  # a host without GPUs never gets a driver; the check says what is missing
        node.need_driver("topology")
    return check_node(node.hardware, node.settings.expect, load_gpus())


def in_words(hardware: NodeHardware) -> str:
    """Say which GPUs a host has and how they are joined: `8x NVIDIA H100 80GB HBM3, NV18`."""
    names = Counter(gpu.name or "unknown GPU" for gpu in hardware.gpus)
    if not names:
        return "none"
    words = ", ".join(f"{count}x {name}" for name, count in names.items())
    links = sorted(set(hardware.links.values()), key=_strength)
    return f"{words}, {'/'.join(links)}" if links else words


_CLASSES = ("NV", "PIX", "PXB", "PHB", "NODE", "SYS")


def _strength(link: str) -> tuple[int, int]:
    for rank, name in enumerate(_CLASSES):
        if link.startswith(name):
            number = link.removeprefix(name)
            return rank, -int(number) if number.isdigit() else 0
    return len(_CLASSES), 0
