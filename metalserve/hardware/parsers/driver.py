"""Versions of the kernel module and of fabric manager, and the list of loaded modules."""

from __future__ import annotations

import re
from dataclasses import dataclass

from metalserve.hardware.parsers.text import ParseError, clean, first_line

_NVRM = re.compile(r"NVRM version:[^\n]{0,120}?\s(\d{3,4}\.\d{1,3}(?:\.\d{1,3})?)\s")
_VERSION = re.compile(r"(?<![\d.])(\d{3,4}\.\d{1,3}(?:\.\d{1,3})?)(?![\d.])")
_MODULE = re.compile(r"[A-Za-z0-9_]{1,64}")


@dataclass(frozen=True, slots=True)
class LoadedDriver:
    """The loaded kernel module: its version, and whether it is the open one."""

    version: str
    open: bool


def parse_loaded_driver(text: str) -> LoadedDriver:
    """Read `/proc/driver/nvidia/version`.

    Raises:
        ParseError: no version in it.
    """
    text = clean(text)
    found = _NVRM.search(text)
    if not found:
        raise ParseError(f"no `NVRM version` with a driver version; the text begins with {first_line(text)!r}")
    line = text[found.start() : text.find("\n", found.start())] if "\n" in text[found.start() :] else text
    return LoadedDriver(found.group(1), "Open Kernel Module" in line)


def parse_version(text: str) -> str:
    """Return the driver-like version (`580.178.04`) in the output of `modinfo` or `nv-fabricmanager --version`.

    Raises:
        ParseError: there is none, or there are different ones.
    """
    found = set(_VERSION.findall(clean(text)))
    if len(found) != 1:
        what = "no version" if not found else f"several versions ({', '.join(sorted(found)[:3])})"
        raise ParseError(f"{what}; the text begins with {first_line(text)!r}")
    return str(found.pop())


def parse_modules(text: str) -> tuple[str, ...]:
    """Return module names: the first word of each line (`/proc/modules`, `lsmod`, or names alone). Never raises."""
    names = (line.split()[0] for line in clean(text).splitlines() if line.split())
    return tuple(dict.fromkeys(n for n in names if _MODULE.fullmatch(n) and n != "Module"))
