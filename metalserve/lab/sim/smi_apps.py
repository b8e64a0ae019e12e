"""`nvidia-smi --query-compute-apps`: the processes that have a GPU's device node open, which is what the lab has."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .view import Gpu


def holders() -> dict[str, list[int]]:
    """Processes by the GPU's node that they have open (`/dev/nvidia0`), containers' own included."""
    found: dict[str, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        place = f"/proc/{name}/fd"
        try:
            opened = {os.readlink(f"{place}/{number}") for number in os.listdir(place)}
        except OSError:
            continue
        for path in opened:
            if path.removeprefix("/dev/nvidia").isdigit():
                found.setdefault(path, []).append(int(name))
    return found


def rows(fields: Sequence[str], chosen: Sequence[Gpu]) -> Iterator[str]:
    """One line a GPU and process, with the fields that were asked for."""
    held = holders()
    for gpu in chosen:
        for pid in sorted(held.get(f"/dev/nvidia{gpu.position}", ())):
            known = {
                "gpu_uuid": gpu.uuid,
                "gpu_bus_id": gpu.slot["bus"],
                "pid": str(pid),
                "process_name": _name(pid),
                "used_memory": "[N/A]",
                "used_gpu_memory": "[N/A]",
            }
            yield ", ".join(known.get(field.strip(), "[Unknown Error]") for field in fields)


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as stream:
            return stream.read().split("\0")[0] or "[Not Found]"
    except OSError:
        return "[Not Found]"
