"""What all parsers share: their error, and how addresses, numbers and terminal codes are read."""

from __future__ import annotations

import re

from metalserve.errors import MetalserveError

_ANSI = re.compile(
    r"\x1b\[[0-9;?]{0,20}[A-Za-z]|\x1b\][^\x07\x1b\n]{0,200}(?:\x07|\x1b\\)?|\x1b[()][A-Z0-9]"
    r"|\[(?:4|0|1)m"  # the ESC is often lost when pasted
)
_ADDRESS = re.compile(
    r"(?<![0-9a-f])(?<![0-9a-f]:)(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-7]))?(?![0-9a-f:])",
    re.IGNORECASE,
)
_PROMPT = re.compile(r"\s*(?:\([\w.-]{1,40}\) ?)?\[?[\w.-]{1,60}@[\w.-]{1,80}[: ][^#$%]{0,120}[#$%](?:\s|$)")
_NUMBER = re.compile(r"-?\d{1,18}(?:\.\d{1,18})?")
_NOTHING = {"", "n/a", "not supported", "not available", "unknown error", "gpu is lost", "insufficient permissions"}
_GENERATION_BY_GT_S = {
    "2.5": 1,
    "5": 2,
    "5.0": 2,
    "8": 3,
    "8.0": 3,
    "16": 4,
    "16.0": 4,
    "32": 5,
    "32.0": 5,
    "64": 6,
    "64.0": 6,
}
"""PCI Express base specifications 1 to 6: transfer rate per lane, GT/s."""


class ParseError(MetalserveError):
    """Text that is not what the parser reads, or is damaged."""


def decode(raw: bytes) -> str:
    """Return the text of a file: UTF-8, or UTF-16 where a byte order mark says so (PowerShell writes it)."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", errors="replace")
    return raw.decode("utf-8", errors="replace")


def clean(text: str) -> str:
    """Remove terminal codes, carriage returns, NULs and byte order marks; hard blanks of web pages become blanks."""
    if "\x1b" in text or "m" in text:
        text = _ANSI.sub("", text)
    return text.replace("\r", "").replace("\x00", "").replace("\ufeff", "").replace("\xa0", " ")


def first_line(text: str, limit: int = 160) -> str:
    """Return the first line that is not blank, cut to `limit` characters: evidence for messages."""
    for line in text.splitlines():
        if line.strip():
            line = line.strip()
            return line if len(line) <= limit else line[:limit] + "..."
    return ""


def is_prompt(line: str) -> bool:
    """Tell whether a line is a shell's prompt (`root@host:~# `), pasted with the output above or below it."""
    return bool(_PROMPT.match(line))


def pci_address(text: str) -> str | None:
    """Return the first PCI address in `text` as `0000:19:00.0`, or None.

    nvidia-smi writes eight digits of domain, kernel logs leave out the function, lspci the domain.
    """
    found = _ADDRESS.search(text)
    if not found:
        return None
    domain, bus, device, function = found.groups()
    return f"{int(domain or '0', 16):04x}:{bus.lower()}:{device.lower()}.{function or '0'}"


def absent(value: str | None) -> bool:
    """Tell whether a cell says that there is no value (`N/A`, `[Not Supported]`, deprecated ...)."""
    if value is None:
        return True
    low = value.strip().lower().removeprefix("[").removesuffix("]")
    return (
        low in _NOTHING
        or "deprecated" in low
        or "not found" in low
        or low.startswith(("err!", "error", "gpu requires"))
    )


def number(value: str | None) -> float | None:
    """Return the number that a cell such as `81559 MiB` or `700.00 W` begins with, or None."""
    if value is None or absent(value):
        return None
    found = _NUMBER.match(value.strip())
    return float(found.group()) if found else None


def integer(value: str | None) -> int | None:
    """Return the whole number that a cell such as `16x` begins with, or None."""
    found = number(value)
    return int(found) if found is not None else None


def flag(value: str | None) -> bool | None:
    """Return True for Yes/Enabled/Active/On, False for their opposites, else None."""
    low = (value or "").strip().lower()
    if low in ("yes", "enabled", "active", "on", "true"):
        return True
    if low in ("no", "disabled", "not active", "off", "false"):
        return False
    return None


def word(value: str | None) -> str | None:
    """Return the stripped text, or None when the cell is empty."""
    value = (value or "").strip()
    return value or None


def pcie_generation(gt_per_s: str) -> int | None:
    """Return the PCIe generation for a rate such as `16GT/s`, `16.0 GT/s PCIe` or `16`, or None."""
    found = _NUMBER.match(gt_per_s.strip())
    return _GENERATION_BY_GT_S.get(found.group()) if found else None
