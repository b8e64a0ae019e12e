"""What is asked of the boot server: paths, bodies, ranges. Pure."""

from __future__ import annotations

import re
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from metalserve.templates.machine_identity import Identity
from metalserve.templates.order import Disk, HostKey, Status

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
FILE: Final = re.compile(rf"/v1/files/({NAME})/({NAME})/({NAME})")
BOOT: Final = re.compile(rf"/boot((?:/{NAME})+)")
HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:]{2,45}\](:[0-9]{1,5})?")
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


class Asked(BaseModel):
    """Body of `POST /v1/permission`."""

    model_config = ConfigDict(extra="ignore")
    identity: Identity
    disks: list[Disk] = Field(max_length=1024)


class Result(BaseModel):
    """Body of `POST /v1/result`."""

    model_config = ConfigDict(extra="ignore")
    order: str
    token: str
    status: Status
    words: str = ""
    host_keys: list[HostKey] = Field(default_factory=list, max_length=8)


def asked_range(header: str, size: int) -> tuple[int, int]:
    """Return the first and last byte asked for; (1, 0) for a range that is not there; several ranges: everything."""
    found = _RANGE.fullmatch(header.strip())
    if found is None or not (found[1] or found[2]):
        return 0, size - 1
    if not found[1]:
        return max(0, size - int(found[2])) if int(found[2]) else 1, size - 1 if int(found[2]) else 0
    first = int(found[1])
    last = min(int(found[2]), size - 1) if found[2] else size - 1
    return (first, last) if first <= last else (1, 0)
