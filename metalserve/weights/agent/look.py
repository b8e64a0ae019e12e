"""What lies in a store, told without its configuration and without reading a byte of the model.

Every observation of a host asks for it: it imports little, so that it is quick.
"""

from __future__ import annotations

from stat import S_ISREG
from typing import Any

from . import checks
from .store import HINTS, Store
from .tree import Tree


def inspect(store: Store, listed: str | None = None) -> dict[str, Any]:
    """Return what lies in a store by names, sizes and times: absent, partial, published, changed or damaged."""
    report = checks.quick(store, listed, samples=False)
    state, there = {"intact": "published"}.get(report.state, report.state), report.bytes_there
    if state == "absent":
        try:
            with Tree(store.partial) as tree:
                plain = [each for path, each in tree.entries() if S_ISREG(each.st_mode) and path != HINTS]
            state, there = "partial", sum(each.st_size for each in plain)
        except OSError:
            there = 0
    return {
        "format": 1,
        "state": state,
        "bytes_there": there,
        "files": report.files,
        "list": report.listed,
        "what": report.why if state in ("changed", "damaged") else "",
        "published": store.published,
        "revision": store.revision,
    }
