"""What launches taught, kept on the controller for the next plan: `reports/calibration.json`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from metalserve.planning.calibration import Learned, as_json, read_corrections, remember
from metalserve.pyinfra_seam.report import RunReport


def keep_learned(report: RunReport, path: Path) -> None:
    """Add what the hosts of a run taught to the file; without anything new it is left alone.

    A reader sees the old file or the whole new one.

    Raises:
        MetalserveError: the file is there and is none of ours.
        OSError: it cannot be written.
    """
    new = [Learned(**host.learned) for host in report.hosts.values() if host.learned]
    known = read_corrections(path.read_text(encoding="utf-8"), str(path)) if path.exists() else []
    wanted = list(known)
    for one in new:
        same = next((k for k in wanted if (k.host, k.model, k.vllm) == (one.host, one.model, one.vllm)), None)
        if same is None or same.correction != one.correction:
            wanted = remember(wanted, one)
    if wanted == known:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(as_json(wanted))
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
