"""Kinds that `nvidia-smi` prints about GPUs."""

from __future__ import annotations

import re
from typing import Any, Final

from metalserve.hardware.parsers.smi import (
    addresses_named_in_errors,
    is_csv_header,
    parse_smi_csv,
    parse_smi_list,
)
from metalserve.hardware.parsers.smi_q import parse_smi_q
from metalserve.hardware.parsers.smi_report import SmiReport
from metalserve.hardware.parsers.smi_table import parse_smi_table
from metalserve.hardware.parsers.smi_words import parse_smi_fields, parse_smi_version
from metalserve.hardware.parsers.smi_xml import parse_smi_xml
from metalserve.hardware.readable.kind import Kind, marks, of_smi, plain
from metalserve.hardware.values import Gpu

_ALONE = re.compile(r"[a-z][a-z0-9_]*(?: \[.+\])?|[a-z][a-z0-9_]*(?:\.[A-Za-z0-9_]+)+(?: \[.+\])?")


def _report(report: SmiReport) -> dict[str, Any]:
    return {
        "driver": report.driver,
        "cuda": report.cuda,
        "attached": report.attached,
        "gpus": [{**_flat(gpu), **plain(details)} for gpu, details in zip(report.gpus, report.details, strict=True)],
        "notes": list(report.notes),
    }


def _flat(gpu: Gpu) -> dict[str, Any]:
    """The fields of `Gpu` that are single values or lists: an object inside would have no place on the page."""
    return {key: value for key, value in plain(gpu).items() if key != "details"}


def _smi_q(text: str) -> dict[str, Any]:
    return _report(parse_smi_q(text))


def _smi_xml(text: str) -> dict[str, Any]:
    return _report(parse_smi_xml(text))


def _smi_table(text: str) -> dict[str, Any]:
    return {**plain(parse_smi_table(text)), "unreachable": list(addresses_named_in_errors(text))}


def _smi_list(text: str) -> dict[str, Any]:
    return {
        "gpus": [
            {
                "index": gpu.index,
                "name": gpu.name,
                "uuid": gpu.uuid,
                "mig": [{"profile": profile, "uuid": uuid} for profile, uuid in gpu.mig],
            }
            for gpu in parse_smi_list(text)
        ],
        "unreachable": list(addresses_named_in_errors(text)),
    }


def _smi_csv(text: str) -> dict[str, Any]:
    table = parse_smi_csv(text)
    return {
        "fields": list(table.fields),
        "units": dict(table.units),
        "rows": [dict(r) for r in table.rows],
        "notes": list(table.notes),
    }


def _looks_csv(text: str) -> bool:
    lines = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()[:20]]
    # One word alone is a field of nvidia-smi only in lower case or with a dot: prose and symbols are full of others.
    return any(is_csv_header(cells) and (len(cells) > 1 or _ALONE.fullmatch(cells[0])) for cells in lines)


def _smi_version(text: str) -> dict[str, Any]:
    return dict(plain(parse_smi_version(text)))


def _smi_fields(text: str) -> dict[str, Any]:
    found = parse_smi_fields(text)
    return {
        "switch": found.switch,
        "fields": list(found.fields),
        "aliases": {names[0]: list(names[1:]) for names in found.aliases if len(names) > 1},
    }


def _looks_list(text: str) -> bool:
    return bool(re.search(r"(?m)^GPU \d{1,4}: .{1,200}\(UUID: GPU-", text)) and not re.search(r"\bLink \d", text)


SMI_KINDS: Final = (
    Kind("smi-xml", "nvidia-smi -q -x", of_smi(_smi_xml), marks(r"<nvidia_smi_log")),
    Kind(
        "smi-fields",
        "nvidia-smi --help-query-gpu",
        of_smi(_smi_fields),
        marks(r"List of valid properties to query for the switch"),
    ),
    Kind("smi-version", "nvidia-smi --version", of_smi(_smi_version), marks(r"^NVIDIA-SMI version\s*:")),
    Kind("smi-table", "nvidia-smi", of_smi(_smi_table), marks(r"\| NVIDIA-SMI \d")),
    Kind(
        "smi-q",
        "nvidia-smi -q, also -d and -i",
        of_smi(_smi_q),
        marks(r"NVSMI LOG|^Attached GPUs {2,60}:|^GPU [0-9A-Fa-f]{8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d\s*$"),
    ),
    Kind("smi-list", "nvidia-smi -L", of_smi(_smi_list), _looks_list),
    Kind("smi-csv", "nvidia-smi --query-gpu=... --format=csv, also --query-compute-apps", of_smi(_smi_csv), _looks_csv),
)
