"""What launches taught, kept on the controller for the next plan: `reports/calibration.json`."""

from __future__ import annotations

from pathlib import Path

from metalserve.planning.calibration import Learned, as_json, read_corrections, remember
from metalserve.pyinfra_seam.report import RunReport
from metalserve.report.writing import write_whole


def keep_learned(report: RunReport, path: Path) -> None:
    """Add what the hosts of a run taught to the file; without anything new it is left alone.

    Raises:
        MetalserveError: the file is there and is none of ours, or it cannot be written.
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
    write_whole(path, as_json(wanted).encode())
