"""`nvidia-smi nvlink -s`: state and speed of each NVLink."""

from __future__ import annotations

import re

from metalserve.hardware.parsers.text import ParseError, clean, first_line, is_prompt
from metalserve.hardware.values import NvlinkStatus

_GPU = re.compile(r"\s*GPU (\d{1,4}): (.{1,200}?)(?: \(UUID: ([^)]{1,80})\))?\s*")
_LINK = re.compile(r"\s*Link (\d{1,3}): (?:(\d{1,6}(?:\.\d{1,6})?) GB/s|(<inactive>|inactive|<Inactive>))\s*")
_UNSUPPORTED = ("does not have or support nvlink", "not support nvlink")
_ALL_INACTIVE = "all links are inactive"
_MIG = "not supported for devices in mig mode"


def parse_nvlink_status(text: str) -> tuple[NvlinkStatus, ...]:
    """Read `nvidia-smi nvlink -s` (all GPUs or one).

    Raises:
        ParseError: no GPU is named, a GPU or link comes twice, or a line inside a GPU is not understood.
    """
    gpus: list[NvlinkStatus] = []
    links: dict[int, float | None] = {}
    for line in clean(text).splitlines():
        if not line.strip() or is_prompt(line):
            continue
        head = _GPU.fullmatch(line)
        link = _LINK.fullmatch(line)
        low = line.lower()
        if head:
            index = int(head.group(1))
            if any(g.index == index for g in gpus):
                raise ParseError(f"GPU {index} comes twice")
            links = {}
            gpus.append(NvlinkStatus(index, head.group(2), head.group(3), True, links))
        elif link and gpus:
            number = int(link.group(1))
            if number in links:
                raise ParseError(f"GPU {gpus[-1].index} has link {number} twice")
            links[number] = float(link.group(2)) if link.group(2) else None
        elif gpus and any(words in low for words in _UNSUPPORTED):
            gpus[-1] = _noted(gpus[-1], False, line)
        elif gpus and (_ALL_INACTIVE in low or _MIG in low or low.strip() == "..."):  # "...": cut by who pasted it
            gpus[-1] = _noted(gpus[-1], True, line)
        elif gpus:
            raise ParseError(f"GPU {gpus[-1].index}: line not understood: {line.strip()[:80]!r}")
    if not gpus:
        raise ParseError(f"no GPU named; the text begins with {first_line(text)!r}")
    return tuple(gpus)


def _noted(gpu: NvlinkStatus, supported: bool, line: str) -> NvlinkStatus:
    return NvlinkStatus(gpu.index, gpu.name, gpu.uuid, supported, gpu.link_gb_per_s, line.strip())
