"""Reports that are kept: one file a verify run, by its time; the oldest go when there are too many."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from metalserve.errors import MetalserveError
from metalserve.report.reading import mapping_of_hosts
from metalserve.report.values import line, utc
from metalserve.report.writing import write_whole

HISTORY: Final = "reports/verify"
"""Where the controller keeps them, below the working directory."""

KEPT: Final = 200
"""Reports that stay: half a year of daily runs. One of 8 GPUs with a 15-minute soak has about 0.4 MB a node."""

_NAME = re.compile(r"\d{8}T\d{6}Z(?:-\d{1,4})?\.json")


def keep(report: Mapping[str, Any], directory: Path, *, kept: int = KEPT) -> Path:
    """Write a run's report into the history, whole or not at all, and drop the oldest beyond `kept`.

    Args:
        report: as `RunReport.as_dict` gives it.
        directory: `reports/verify`; made when it is not there.
        kept: how many stay, this one too; at least 1.

    Returns:
        The file, `<UTC time of the run's start>.json`; a second run of the same second gets `-2`.

    Raises:
        MetalserveError: it is no report, or cannot be written.
    """
    mapping_of_hosts(report, where="report")
    started = utc(line(report.get("started"))) or datetime.now(UTC)
    stamp = f"{started:%Y%m%dT%H%M%SZ}"
    path, number = directory / f"{stamp}.json", 1
    while path.exists():
        number += 1
        path = directory / f"{stamp}-{number}.json"
    write_whole(path, (json.dumps(report, separators=(",", ":")) + "\n").encode())
    for old in kept_reports(directory)[: -max(kept, 1)]:
        with contextlib.suppress(OSError):  # one that cannot be dropped today is dropped by the next run
            old.unlink()
    return path


def kept_reports(directory: Path) -> list[Path]:
    """Return the files of the history, oldest first; what has another name than `keep` gives is left alone.

    Raises:
        MetalserveError: the directory is there and cannot be read.
    """
    try:
        found = [p for p in directory.iterdir() if _NAME.fullmatch(p.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MetalserveError(f"cannot be read: {error.strerror}", where=str(directory)) from error
    return sorted(found, key=_order)


def _order(path: Path) -> tuple[str, int]:
    stamp, _, number = path.stem.partition("-")
    return stamp, int(number or 1)
