"""Writes a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from metalserve.errors import MetalserveError


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`, readable by its owner only, as run reports are; an old file stays until it is done.

    Raises:
        MetalserveError: it cannot be written.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".report.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise MetalserveError(f"cannot be written: {error.strerror}", where=str(path)) from error
