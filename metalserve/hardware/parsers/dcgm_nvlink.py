"""`dcgmi nvlink --link-status`: the state of each link of GPUs and NVSwitches as a letter."""

from __future__ import annotations

import re
from dataclasses import dataclass

from metalserve.hardware.parsers.text import ParseError, clean, first_line

_ENTITY = re.compile(r"\s*(gpuId|physicalId|switchId|nvSwitchId) (\d{1,6}):?\s*(.*)")
_LETTERS = re.compile(r"\s*([UDX_](?:\s+[UDX_]){0,143})\s*")


@dataclass(frozen=True, slots=True)
class DcgmLinks:
    """Links of one GPU or NVSwitch: `U` up, `D` down, `X` disabled, `_` not supported, by link number."""

    kind: str
    index: int
    states: str


def parse_dcgm_nvlink(text: str) -> tuple[DcgmLinks, ...]:
    """Read `dcgmi nvlink --link-status`.

    Raises:
        ParseError: no such table, an entity without or with damaged states, or one that comes twice.
    """
    found: list[DcgmLinks] = []
    open_entity: tuple[str, int] | None = None
    begun = False
    for line in clean(text).splitlines():
        begun = begun or "NvLink Link Status" in line or line.strip() == "GPUs:"
        entity = _ENTITY.fullmatch(line)
        letters = _LETTERS.fullmatch(line)
        if entity:
            if open_entity:
                raise ParseError(f"dcgmi nvlink: no link states for {open_entity[0]} {open_entity[1]}")
            open_entity = ("gpu" if entity.group(1) == "gpuId" else "switch", int(entity.group(2)))
            letters = _LETTERS.fullmatch(entity.group(3)) if entity.group(3) else None
            if entity.group(3) and not letters:
                raise ParseError(f"dcgmi nvlink: {line.strip()[:80]!r} not understood")
        if letters and open_entity:
            if any((e.kind, e.index) == open_entity for e in found):
                raise ParseError(f"dcgmi nvlink: {open_entity[0]} {open_entity[1]} comes twice")
            found.append(DcgmLinks(*open_entity, "".join(letters.group(1).split())))
            open_entity = None
        elif open_entity and not entity and line.strip():
            raise ParseError(f"dcgmi nvlink: link states expected, not {line.strip()[:80]!r}")
    if open_entity or not begun or not found:
        raise ParseError(f"no link status of dcgmi nvlink, or it is cut; the text begins with {first_line(text)!r}")
    return tuple(found)
