"""The GPUs that the container was given, as far as a process can tell: their device nodes."""

from __future__ import annotations

import os
from pathlib import Path

HELD: list[int] = []
"""Open descriptors of the nodes, which last as long as the process."""


def visible_gpus() -> int | None:
    """Return how many GPUs the container was given, or None when nothing says so.

    Device nodes count first (CDI and the NVIDIA runtime both make them), then a list in CUDA_VISIBLE_DEVICES or
    NVIDIA_VISIBLE_DEVICES; `all` says nothing. With METALSERVE_LAB_REQUIRE_GPUS=1, which the image sets, only the
    nodes count: a container that was given GPUs in name only has none, as with the real engine.
    """
    nodes = [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()]
    if os.environ.get("METALSERVE_LAB_REQUIRE_GPUS") == "1":
        return len(nodes)
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        listed = os.environ.get("NVIDIA_VISIBLE_DEVICES", "all")
        if listed in {"all", "void"}:
            return len(nodes) or None
    count = 0 if listed in {"", "none", "NoDevFiles"} else len(listed.split(","))
    return min(count, len(nodes)) if nodes else count


def hold_gpus() -> None:
    """Open the GPUs' device nodes, as CUDA does: nvidia-smi lists who has them open. Raises OSError."""
    for path in Path("/dev").glob("nvidia[0-9]*"):
        HELD.append(os.open(path, os.O_RDONLY))
