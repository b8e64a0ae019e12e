"""The real captures, which are not part of the repository.

METALSERVE_CAPTURES names their directory, or they lie in ../shared/captures beside it. Without them the tests of them
are skipped.
"""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any

from metalserve.hardware.readable import KINDS

ROOT = Path(os.environ.get("METALSERVE_CAPTURES") or Path(__file__).resolve().parents[3] / "shared" / "captures")


def _index() -> dict[str, dict[str, str]]:
    if not (ROOT / "INDEX.tsv").is_file():
        return {}
    with open(ROOT / "INDEX.tsv", encoding="utf-8", newline="") as stream:
        return {row["file"]: row for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)}


INDEX = _index()


def files_of(kind: str, *, mangled: bool | None = None) -> list[str]:
    names = [n for n, row in INDEX.items() if row["kind"] == kind]
    if mangled is not None:
        names = [n for n in names if ("MANGLED" in n) == mangled]
    return sorted(names)


def text_of(name: str) -> str:
    return (ROOT / name).read_bytes().decode("utf-8", errors="replace")


def answer_of(name: str) -> str:
    return INDEX[name]["ANSWER"]


def number_in(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return int(found.group(1))


KIND_OF = {
    "dcgmi-diag": "dcgm",
    "dcgmi-nvlink": "dcgm-nvlink",
    "fabricmanager-log": "fabric-log",
    "findmnt-json": "findmnt",
    "findmnt-text": "findmnt",
    "fio-json": "fio",
    "nccl-tests": "nccl",
    "nvidia-smi-L": "smi-list",
    "nvidia-smi-q": "smi-q",
    "nvidia-smi-q-x": "smi-xml",
    "nvidia-smi-table": "smi-table",
    "nvidia-smi-version": "smi-version",
    "nvlink-c": "nvlink-caps",
    "nvlink-e": "nvlink-errors",
    "nvlink-s": "nvlink-status",
    "query-apps-csv": "smi-csv",
    "query-gpu-csv": "smi-csv",
    "topo-m": "topo",
    "topo-p2p": "p2p",
}
"""Kind of the index -> kind of `metalserve read`, where the names differ."""


def kind_of(name: str) -> str:
    kind = INDEX[name]["kind"]
    if kind == "nvme":
        return "nvme-smart" if "smart" in name else "nvme-id-ctrl" if "id-ctrl" in name else "nvme-list"
    if "capabilities" in name:  # `--help-query-compute-apps`, kept under the name of the query
        return "smi-fields"
    return KIND_OF.get(kind, kind)


def read_by_name(name: str) -> dict[str, Any]:
    return KINDS[kind_of(name)].read(text_of(name))
