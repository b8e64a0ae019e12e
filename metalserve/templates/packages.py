"""The packages of an image: from dpkg's status or rpm, to `packages.tsv` and back."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

from metalserve.templates.manifest import TemplateError, read_small, write_whole
from metalserve.templates.rpm_database import query_rpm, rpm_database

TSV = "packages.tsv"
RPM_QUERY = r"%{NAME}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\t%{ARCH}\t%{SOURCERPM}\n"
"""What `rpm -qa --queryformat` takes to print what `read_rpm` reads."""

_HEADER = ("package", "version", "architecture", "source")
_LARGEST = 64 << 20
DPKG_STATUS = "var/lib/dpkg/status"


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """An installed package.

    Attributes:
        name: as it is installed by.
        version: with epoch and revision.
        architecture: as the distribution calls it.
        source: the source package that it was built from.
    """

    name: str
    version: str
    architecture: str
    source: str


def read_dpkg(text: str) -> list[Package]:
    """Return the installed packages of dpkg's status file, in order; what is only configured or half there is not."""
    found = []
    for stanza in text.split("\n\n"):
        fields = {}
        for line in stanza.splitlines():
            key, colon, value = line.partition(":")
            if colon and not line[0].isspace():
                fields[key.lower()] = value.strip()
        if fields.get("status", "").split()[-1:] == ["installed"]:
            name = fields["package"]
            source = fields.get("source", name).split(" ")[0]
            found.append(Package(name, fields["version"], fields["architecture"], source))
    return sorted(found)


def read_rpm(text: str) -> list[Package]:
    """Return the packages of `rpm -qa --queryformat RPM_QUERY`, in order; the keys that rpm lists as well are none.

    Raises:
        TemplateError: a line is not what that prints.
    """
    found = []
    for line in text.splitlines():
        words = line.split("\t")
        if len(words) != 4:
            raise TemplateError(f"{line[:80]!r} is not what was asked for", where="rpm -qa")
        if words[0] == "gpg-pubkey":
            continue
        source = words[3].removesuffix(".src.rpm").rsplit("-", 2)[0] if words[3] != "(none)" else words[0]
        found.append(Package(words[0], words[1], words[2], source))
    return sorted(found)


def packages_of_root(root: Path) -> list[Package]:
    """Return the packages of a root, by dpkg's status or rpm's database.

    Raises:
        TemplateError: it has neither, or what it has cannot be read.
    """
    if not (root / DPKG_STATUS).exists() and (database := rpm_database(root)) is not None:
        found, path = read_rpm(query_rpm(database, RPM_QUERY)), database
    else:
        path = root / DPKG_STATUS
        try:
            found = read_dpkg(read_small(path, _LARGEST).decode())
        except (KeyError, UnicodeDecodeError) as error:
            raise TemplateError(f"cannot be understood: {error}", where=str(path)) from error
    if not found:
        raise TemplateError("lists no installed package", where=str(path))
    return found


def tsv(packages: Iterable[Package]) -> str:
    """Return packages as tab-separated text with a line of headings."""
    lines = ["\t".join(_HEADER), *("\t".join(astuple(package)) for package in sorted(packages))]
    return "\n".join(lines) + "\n"


def write_tsv(packages: Iterable[Package], path: Path) -> None:
    """Write `packages.tsv`; raises TemplateError when it cannot be written."""
    write_whole(path, tsv(packages).encode())


def read_tsv(path: Path) -> list[Package]:
    """Return the packages of a `packages.tsv`; raises TemplateError when it is no such file."""
    lines = read_small(path, _LARGEST).decode(errors="replace").splitlines()
    rows = [tuple(line.split("\t")) for line in lines]
    if rows[:1] != [_HEADER]:
        raise TemplateError("does not begin with the headings of a list of packages", where=os.fspath(path))
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(_HEADER) or not all(row):
            raise TemplateError(f"line {number} is no package", where=os.fspath(path))
    return [Package(*row) for row in rows[1:]]
