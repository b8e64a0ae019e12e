"""What the models of a host lie on: pure."""

from __future__ import annotations

from metalserve.desired.model import NotYetKnown
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from roles.storage.choice import Volume, choose
from roles.storage.drives import parse_arrays, parse_drives
from roles.storage.fitness import judged


def chosen(node: Node) -> Volume:
    """Return what the models lie on, or are to.

    Raises:
        NotYetKnown: the tools that list drives, or mdadm, are not installed yet.
        MetalserveError: no drive can be taken.
    """
    hardware = node.hardware
    listing = node.observed.sections.get("nvme-list")
    if listing is not None and listing.rc == 127:
        raise NotYetKnown("drive of the models: known only after nvme-cli is there", remedy="run roles.base first")
    if "nvme-list" in hardware.unread:
        raise MetalserveError(
            "the NVMe drives cannot be listed, so none is touched",
            where="nvme list",
            remedy="run `nvme list -o json` on the host to see why",
        )
    probe = node.observed.text("storage-drives")
    drives = judged(parse_drives(probe, hardware.nvme), hardware)
    if node.settings.storage.raid and any(d.ours_in_array and d.members is None for d in drives):
        raise NotYetKnown("the models' array: known only after mdadm is there", remedy="run roles.storage")
    return choose(drives, parse_arrays(probe), node.settings.storage)
