"""What a packed image holds, looked at without booting it: identities, logs, secrets. Nothing is mounted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from metalserve.errors import MetalserveError
from metalserve.templates.clean import IDENTITIES, TRACES, matches
from metalserve.templates.toolroot import ToolRoot
from metalserve.verify.finding import Finding

PLACES: Final = (
    "etc", "root", "home", "opt", "tmp", "usr/local", "var/cache", "var/lib/chrony", "var/lib/cloud", "var/lib/dbus",
    "var/lib/dhcp", "var/lib/metalserve", "var/lib/systemd", "var/log", "var/tmp",
)  # fmt: skip
"""What is taken out of the image to be looked at: all that is not a package's."""

_LARGEST: Final = 1 << 20
_SECRETS: Final = (
    ("a private key", re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s")),
    ("a token of a model hub", re.compile(rb"\bhf_[A-Za-z0-9]{30,}")),
    ("an access key of a cloud", re.compile(rb"\b(AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a token of a code host", re.compile(rb"\b(ghp|gho|ghs|glpat)[_-][A-Za-z0-9_-]{20,}")),
    ("a minisign secret key", re.compile(rb"untrusted comment: minisign[^\n]* secret key")),
)
_TREE: Final = "/tree"


def take_out(tools: ToolRoot, disk: Path, into: Path) -> Path:
    """Take the places that may hold what must not be there out of a disk image, and return the tree.

    Args:
        tools: has sfdisk and debugfs.
        disk: the raw disk.
        into: a directory; the tree is made in it.

    Raises:
        MetalserveError: the disk has no Linux root partition, or its file system cannot be read.
    """
    binds = {disk.parent: "/disk", into: _TREE}
    table = json.loads(tools.run(["sfdisk", "--json", f"/disk/{disk.name}"], binds=binds).stdout)["partitiontable"]
    roots = [each for each in table["partitions"] if each.get("name") == "root"]
    if len(roots) != 1:
        raise MetalserveError("has no partition named root", where=str(disk))
    offset = roots[0]["start"] * table["sectorsize"]
    # the program knows no copying of several places, and a directory that is not there is no error
    commands = "".join(f"rdump /{place} {_TREE}/{Path(place).parent}\n" for place in PLACES)
    for place in PLACES:
        (into / place).parent.mkdir(parents=True, exist_ok=True)
    said = tools.run(["debugfs", f"/disk/{disk.name}?offset={offset}"], binds=binds, input=commands).stdout
    if not (into / "etc/passwd").is_file():
        raise MetalserveError(f"its root file system cannot be read: {said.strip()[-200:]}", where=str(disk))
    return into


def judge_tree(root: Path) -> list[Finding]:
    """Return what an image's tree holds that it must not.

    Args:
        root: the tree, or the places of it that `take_out` gives.
    """
    identities = [*_there(root, IDENTITIES), *_machine_id(root)]
    keys, cache = "metalserve/templates/clean.py takes them away", "every node begins with what the build left"
    return [
        _finding("host-keys", "identities", identities, "every node has the same keys and names", keys),
        _finding("traces", "traces of the build", list(_there(root, TRACES)), cache, keys),
        _finding("logs", "logs of the build", list(_logs(root)), "they are taken for the node's own", keys),
        _finding(
            "secrets", "secrets", list(_secrets(root)), "whoever gets the image has them", "make them new, everywhere"
        ),
    ]


def _finding(check: str, what: str, found: list[str], impact: str, remedy: str) -> Finding:
    shown = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
    return Finding(
        f"template-{check}",
        "fail" if found else "ok",
        "image",
        f"no {what}",
        shown or "none",
        impact=impact if found else "",
        remedy=remedy if found else "",
        source="the disk image, not booted",
        evidence="\n".join(found) if len(found) > 5 else "",
    )


def _there(root: Path, patterns: tuple[str, ...]) -> Iterator[str]:
    for pattern in patterns:
        for path in matches(root, pattern):
            if path.is_symlink() or path.is_file() or any(not each.is_dir() for each in path.rglob("*")):
                yield f"/{path.relative_to(root)}"


def _machine_id(root: Path) -> Iterator[str]:
    if (root / "etc/machine-id").is_file() and (root / "etc/machine-id").stat().st_size:
        yield "/etc/machine-id"


def _logs(root: Path) -> Iterator[str]:
    for path in sorted((root / "var/log").rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size:
            yield f"/{path.relative_to(root)}"


def _secrets(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST:
            continue
        content = path.read_bytes()
        for what, pattern in _SECRETS:
            if pattern.search(content):
                yield f"/{path.relative_to(root)}: {what}"
    yield from _passwords(_read(root / "etc/shadow"))


def _passwords(shadow: str) -> Iterator[str]:
    for line in shadow.splitlines():
        name, _, rest = line.partition(":")
        word = rest.split(":", 1)[0]
        if word.lstrip("!*"):
            yield f"/etc/shadow: {name} has a password"
        elif not word:
            yield f"/etc/shadow: {name} has an empty password"


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""
