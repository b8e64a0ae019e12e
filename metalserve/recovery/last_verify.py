"""The last verify report of a host, which goes into its bundle: what was measured when it was last known to be well."""

from __future__ import annotations

import io
import json
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from metalserve.errors import MetalserveError
from metalserve.report.history import HISTORY, kept_reports
from metalserve.report.reading import load, mapping_of_hosts
from metalserve.report.values import line, mapping

NAME: Final = "verify-report.json"
"""The file of a bundle."""

LOOKED_AT: Final = 10
"""Reports that are looked through, the newest first: a host that was in none of them has no recent one."""

LARGEST_BYTES: Final = 64 * 2**20
"""A larger report (hundreds of nodes with soaks) is not read for the sake of one host at night."""


def last_verify(host: str, directory: Path = Path(HISTORY)) -> bytes | None:
    """Return what the newest kept verify report says of a host, as JSON; None when no recent one has it.

    Args:
        host: the host's name.
        directory: the history of reports.

    Never raises: evidence is kept without it.
    """
    try:
        for path in reversed(kept_reports(directory)[-LOOKED_AT:]):
            if path.stat().st_size > LARGEST_BYTES:
                continue
            started, hosts = _hosts(path, path.stat().st_mtime_ns)
            if host in hosts:
                said = {"schema": 1, "report": path.name, "started": started, "host": host, "verify": hosts[host]}
                return (json.dumps(said, indent=1) + "\n").encode()
    except (MetalserveError, OSError):
        return None
    return None


@lru_cache(maxsize=2)
def _hosts(path: Path, changed: int) -> tuple[str, dict[str, Any]]:
    data = load(path)
    return line(mapping(data).get("started")), dict(mapping_of_hosts(data, where=str(path)))


def with_verify(bundle: bytes, host: str, directory: Path = Path(HISTORY)) -> bytes:
    """Return a bundle (tar, not compressed) with the host's last verify report in it.

    A bundle that was cut off on its way is returned as it came.
    """
    said = last_verify(host, directory)
    if said is None:
        return bundle
    stream = io.BytesIO(bundle)
    try:
        with tarfile.open(fileobj=stream, mode="a") as archive:
            names = archive.getnames()
            top = names[0].split("/")[0] if names else "evidence"
            member = tarfile.TarInfo(f"{top}/{NAME}")
            member.size, member.mode = len(said), 0o600
            archive.addfile(member, io.BytesIO(said))
    except tarfile.TarError:
        return bundle
    return stream.getvalue()
