"""`dkms status`, and `modinfo` of the module that a kernel would load."""

from __future__ import annotations

import re

from metalserve.hardware.boot import DiskModule, DkmsEntry

_NAME = r"[A-Za-z0-9][\w.+~-]{0,100}"
_LINE = re.compile(
    rf"(?P<module>{_NAME})(?:/|, )(?P<version>[^\s,:/]{{1,100}})"
    r"(?:, (?P<kernel>[^\s,]{1,100}), (?P<arch>[\w-]{1,20}))?: (?P<state>[a-z][a-z-]{1,30})(?P<rest>.*)"
)
_NOTE = re.compile(r"\(([^()]{1,200})\)")
_FIELD = re.compile(r"(filename|version|license|vermagic|signer|sig_id):\s{1,20}(.{0,400})")


def parse_dkms(text: str) -> tuple[tuple[DkmsEntry, ...], str]:
    """Read `dkms status` of dkms 2 (`nvidia, 470.1, K, x86_64: installed`) and 3 (`nvidia/470.1, K, x86_64: ...`).

    Returns:
        Its entries, and the lines that are none (errors, warnings), joined. Never raises.
    """
    entries, rest = [], []
    for raw in text.splitlines():
        line = raw.strip()
        found = _LINE.fullmatch(line)
        if found is None or line.startswith(("Error", "Deprecated")):
            if line and not line.startswith("Deprecated feature"):
                rest.append(line)
            continue
        notes = list(dict.fromkeys(_NOTE.findall(found["rest"])))
        if not notes and found["rest"].strip():
            notes = [found["rest"].strip()]  # installed-weak from 5.14.0-503.el9.x86_64
        kernel, arch = found["kernel"] or "", found["arch"] or ""
        entries.append(DkmsEntry(found["module"], found["version"], kernel, arch, found["state"], "; ".join(notes)))
    return tuple(entries), "\n".join(rest)


def parse_modinfo(text: str) -> DiskModule | None:
    """Read `modinfo -k KERNEL nvidia`; `None` when modinfo found no module. Never raises."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        found = _FIELD.fullmatch(line.strip())
        if found:
            values.setdefault(found.group(1), found.group(2).strip())
    if not values.get("filename"):
        return None
    return DiskModule(
        values["filename"],
        values.get("version", ""),
        values.get("vermagic", ""),
        values.get("license", ""),
        values.get("signer", ""),
        values.get("sig_id", ""),
    )
