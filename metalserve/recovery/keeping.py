"""Keeps evidence of a host: bundles and packets, packed and named in one way."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

from metalserve.recovery.last_verify import with_verify
from metalserve.report.writing import write_whole

_LEVEL = 3
"""gzip's level for bundles: they are written while a host waits, and logs pack well at any level."""


def keep_bundle(directory: Path, host: str, bundle: bytes) -> Path:
    """Write what a host sent, with its last verify report, compressed; returns the file.

    Args:
        directory: where bundles are kept.
        host: the host's name.
        bundle: a tar, not compressed.

    Raises:
        MetalserveError: it cannot be written.
    """
    return _written(directory / f"{file_name(host)}-{_stamp()}.tar.gz", with_verify(bundle, host))


def keep_bmc(directory: Path, host: str, files: Mapping[str, str]) -> Path:
    """Write what a host's BMC says in the host's stead; returns the file.

    Args:
        directory: where bundles are kept.
        host: the host's name.
        files: name -> text.

    Raises:
        MetalserveError: it cannot be written.
    """
    tar = tar_of("evidence", {name: text.encode() for name, text in files.items()})
    return _written(directory / f"{file_name(host)}-{_stamp()}-bmc.tar.gz", tar)


def tar_of(top: str, files: Mapping[str, bytes], mtime: int = 0) -> bytes:
    """Return a tar of files below one directory; the same values give the same bytes.

    Args:
        top: the directory.
        files: name -> content.
        mtime: time of all files, seconds since the epoch.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size, member.mtime = len(files[name]), mtime
            archive.addfile(member, io.BytesIO(files[name]))
    return stream.getvalue()


def file_name(name: str) -> str:
    """Return a name that is safe as a file's: host names of an inventory may hold "@" and "/"."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "_"


def _written(path: Path, tar: bytes) -> Path:
    write_whole(path, gzip.compress(tar, compresslevel=_LEVEL, mtime=0))
    return path


def _stamp() -> str:
    """Return the time with milliseconds: a host may be looked at twice within a second."""
    now = time.time()
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"
