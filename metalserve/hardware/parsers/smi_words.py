"""Small outputs of nvidia-smi: `--version`, and the lists of fields of `--help-query-...`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from metalserve.hardware.parsers.text import ParseError, absent, clean, first_line

_VERSION = re.compile(r"\s*([A-Za-z][A-Za-z _-]{1,40}?) version\s*: {0,8}(\S{1,40})(?: .{0,120})?\s*", re.IGNORECASE)
_NAMES = {"nvidia-smi": "smi", "nvml": "nvml", "driver": "driver", "kmd": "driver", "cuda": "cuda", "cuda umd": "cuda"}
_NUMBER = re.compile(r"\d{1,4}(?:\.\d{1,4}){1,3}")
_LIST = re.compile(r'\s*List of valid properties to query for the switch "(--[a-z-]{1,60})')
_FIELD = re.compile(r'\s*"([A-Za-z0-9_.]{1,120})"((?: or "[A-Za-z0-9_.]{1,120}"){0,8})\s*')


@dataclass(frozen=True, slots=True)
class SmiVersion:
    """Versions of nvidia-smi, NVML, kernel driver and CUDA as printed; `None` where not printed or `N/A`."""

    smi: str | None
    nvml: str | None
    driver: str | None
    cuda: str | None


def parse_smi_version(text: str) -> SmiVersion:
    """Read `nvidia-smi --version`.

    Raises:
        ParseError: the versions of nvidia-smi and NVML are not both there, one comes twice, or is no version.
    """
    found: dict[str, str | None] = {}
    for line in clean(text).splitlines():
        read = _VERSION.fullmatch(line)
        name = _NAMES.get(read.group(1).strip().lower()) if read else None
        if read is None or name is None:
            continue
        value = read.group(2)
        if absent(value) or "deprecated" in line.lower():  # 610 names the driver twice, once to say that
            found.setdefault(name, None)
            continue
        if found.get(name) not in (None, value):
            raise ParseError(f"{name} version comes twice: {found[name]} and {value}")
        if not _NUMBER.fullmatch(value):
            raise ParseError(f"{value!r} is no version of {name}")
        found[name] = value
    if "smi" not in found or "nvml" not in found:
        raise ParseError(f"no versions of nvidia-smi and NVML; the text begins with {first_line(text)!r}")
    return SmiVersion(found["smi"], found["nvml"], found.get("driver"), found.get("cuda"))


@dataclass(frozen=True, slots=True)
class SmiFields:
    """The fields that one `--query-...` switch knows: first name of each, and all names with its aliases."""

    switch: str
    fields: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...]


def parse_smi_fields(text: str) -> SmiFields:
    """Read `nvidia-smi --help-query-gpu`, `--help-query-compute-apps` and the like.

    Raises:
        ParseError: no such list, or an empty one.
    """
    switch = ""
    names: list[tuple[str, ...]] = []
    for line in clean(text).splitlines():
        head = _LIST.match(line)
        if head:
            if switch:
                raise ParseError(f"lists of two switches in one text: {switch} and {head.group(1)}")
            switch = head.group(1)
            continue
        found = _FIELD.fullmatch(line) if switch else None
        if found:
            names.append((found.group(1), *re.findall(r'"([^"]+)"', found.group(2))))
    if not switch or not names:
        raise ParseError(f"no list of fields of a --query switch; the text begins with {first_line(text)!r}")
    return SmiFields(switch, tuple(n[0] for n in names), tuple(names))
