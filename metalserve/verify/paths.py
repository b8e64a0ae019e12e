"""The way from a device up to its PCIe root, and which links of it run below what both their ends can do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from metalserve.hardware.machine import PcieNode


@dataclass(frozen=True)
class PathLink:
    """A link of the tree: the port above, the device or switch below; what it runs at and what both ends can do."""

    port: PcieNode
    below: PcieNode
    width: int | None
    width_able: int | None
    gen: int | None
    gen_able: int | None

    @property
    def narrow(self) -> bool:
        """Fewer lanes in use than both ends have."""
        return self.width is not None and self.width_able is not None and self.width < self.width_able

    @property
    def slow(self) -> bool:
        """A lower generation than both ends can do."""
        return self.gen is not None and self.gen_able is not None and self.gen < self.gen_able

    def __str__(self) -> str:
        return f"{self.port.address} to {self.below.address}: Gen{self.gen} x{self.width}"


def by_address(tree: Iterable[PcieNode]) -> dict[str, PcieNode]:
    """Return the tree's places by address."""
    return {node.address: node for node in tree}


def ancestors(nodes: dict[str, PcieNode], address: str) -> list[PcieNode]:
    """Return what is above a device, nearest first; empty when the device is not in the tree."""
    out: list[PcieNode] = []
    node = nodes.get(address)
    while node is not None and node.parent is not None and len(out) < 64:
        node = nodes.get(node.parent)
        if node is not None:
            out.append(node)
    return out


def path(nodes: dict[str, PcieNode], address: str) -> list[PathLink]:
    """Return the links from a device to its root, the device's own first.

    The step from a PCIe switch's downstream to its upstream port is inside the switch, and no link.
    """
    device = nodes.get(address)
    if device is None:
        return []
    chain = [device, *ancestors(nodes, address)]
    return [
        _link(above, below)
        for below, above in list(pairwise(chain))[::2]
        if above.kind == "bridge" and above.width_max is not None and below.width_max is not None
    ]


def _link(port: PcieNode, below: PcieNode) -> PathLink:
    return PathLink(
        port=port,
        below=below,
        width=below.width_current or port.width_current,
        width_able=_least(port.width_max, below.width_max),
        gen=below.gen_current or port.gen_current,
        gen_able=_least(port.gen_max, below.gen_max),
    )


def _least(a: int | None, b: int | None) -> int | None:
    return min(a, b) if a is not None and b is not None else None
