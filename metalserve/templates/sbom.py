"""The SBOM of an image: CycloneDX and SPDX, by debsbom for dpkg roots, from the list of packages for rpm's.

Both come out the same for the same root. debsbom writes SPDX in the order of Python sets, which changes from run to
run: it is put in order here.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metalserve.templates.manifest import TemplateError, write_whole
from metalserve.templates.packages import Package

CYCLONEDX, SPDX = "sbom.cdx.json", "sbom.spdx.json"

_OURS = uuid.UUID("6b1f6c0e-0d55-5d0b-9a52-5f1b0a2a6e11")
"""Namespace of the serial numbers: the same inputs get the same one."""

_RUN = """\
import functools, sys, license_expression
license_expression.get_spdx_licensing = functools.cache(license_expression.get_spdx_licensing)
from debsbom.cli import main
sys.exit(main())
"""
"""debsbom, with SPDX's list of licences read once and not once a package: 6 s of processor for 238 packages, not 33."""

_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Subject:
    """What an SBOM is about.

    Attributes:
        name: of the template.
        inputs: digest of the build's inputs; the documents' identities follow from it.
        distribution: debian, ubuntu or rocky.
        release: of the distribution.
        epoch: seconds since 1970 that the documents bear as their time.
    """

    name: str
    inputs: str
    distribution: str
    release: str
    epoch: int

    @property
    def serial(self) -> str:
        """UUID of the document."""
        return str(uuid.uuid5(_OURS, f"{self.name} {self.inputs}"))

    @property
    def namespace(self) -> str:
        """URI of the SPDX document; it is a name, nothing is served there."""
        return f"urn:uuid:{self.serial}"

    @property
    def time(self) -> str:
        """The time in ISO 8601."""
        return datetime.fromtimestamp(self.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00")


def write_sbom(root: Path, packages: Sequence[Package], subject: Subject, directory: Path) -> None:
    """Write `sbom.cdx.json` and `sbom.spdx.json`.

    Args:
        root: the image's root; licences are read from it for Debian and Ubuntu.
        packages: what is installed in it.
        subject: what it is.
        directory: where the two files go.

    Raises:
        TemplateError: debsbom is missing or failed, or its documents lack packages.
    """
    if subject.distribution == "rocky":
        documents = from_packages(packages, subject)
    else:
        documents = _by_debsbom(root, subject)
        _complete(packages, documents)
    for name, document in zip((CYCLONEDX, SPDX), documents, strict=True):
        write_whole(directory / name, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


def _by_debsbom(root: Path, subject: Subject) -> tuple[dict[str, Any], dict[str, Any]]:
    if importlib.util.find_spec("debsbom") is None:
        raise TemplateError(
            "SBOMs need the Python package debsbom", where="templates", remedy="pip install 'metalserve[templates]'"
        )
    with tempfile.TemporaryDirectory(prefix="metalserve-sbom-") as scratch:
        words = [
            *(sys.executable, "-I", "-c", _RUN, "generate", "--root", str(root.absolute()), "--out", "sbom"),
            *("-t", "cdx", "-t", "spdx", "--with-licenses", "--timestamp", subject.time),
            *("--distro-name", subject.distribution.capitalize(), "--distro-version", subject.release),
            *("--base-distro-vendor", subject.distribution),
            *("--cdx-serialnumber", subject.serial, "--spdx-namespace", subject.namespace),
        ]
        try:
            done = subprocess.run(
                words, cwd=scratch, capture_output=True, text=True, errors="replace", check=False, timeout=_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise TemplateError(f"did not end within {_TIMEOUT_S:.0f} s", where="debsbom") from None
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["no message"]
            raise TemplateError(f"failed ({done.returncode}): {said[-1]}", where="debsbom")
        try:
            cyclonedx, spdx = (json.loads((Path(scratch) / name).read_bytes()) for name in (CYCLONEDX, SPDX))
        except (OSError, ValueError) as error:
            raise TemplateError(f"wrote no SBOM: {error}", where="debsbom") from error
    return cyclonedx, _in_order(spdx)


def _in_order(spdx: dict[str, Any]) -> dict[str, Any]:
    for name, each in spdx.items():
        if isinstance(each, list):
            spdx[name] = sorted(each, key=lambda item: json.dumps(item, sort_keys=True))
    return spdx


def _complete(packages: Sequence[Package], documents: tuple[dict[str, Any], dict[str, Any]]) -> None:
    cyclonedx, spdx = documents
    wanted = {(package.name, package.version) for package in packages}
    listed = (
        (CYCLONEDX, {(each.get("name"), each.get("version")) for each in cyclonedx.get("components", [])}),
        (SPDX, {(each.get("name"), each.get("versionInfo")) for each in spdx.get("packages", [])}),
    )
    for name, found in listed:
        if missing := sorted(wanted - found):
            raise TemplateError(f"lacks {len(missing)} installed packages, {missing[0][0]} first", where=name)


def from_packages(packages: Sequence[Package], subject: Subject) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a CycloneDX 1.6 and an SPDX 2.3 document that list packages of rpm; licences are not among it."""
    whole = f"{subject.distribution} {subject.release}"
    time = subject.time.replace("+00:00", "Z")
    components, listed, relations = [], [], []
    for package in sorted(packages):
        purl = _purl(package, subject)
        components.append(
            {
                "type": "library",
                "bom-ref": purl,
                "name": package.name,
                "version": package.version,
                "purl": purl,
                "properties": [{"name": "metalserve:source", "value": package.source}],
            }
        )
        reference = "SPDXRef-" + uuid.uuid5(_OURS, purl).hex
        listed.append(
            {
                "SPDXID": reference,
                "name": package.name,
                "versionInfo": package.version,
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": False,
                "supplier": "NOASSERTION",
                "sourceInfo": f"built from {package.source}",
                "externalRefs": [
                    {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}
                ],
            }
        )
        relations.append(_relation("SPDXRef-image", "CONTAINS", reference))
    cyclonedx = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{subject.serial}",
        "version": 1,
        "metadata": {
            "timestamp": time,
            "component": {
                "type": "operating-system",
                "bom-ref": "image",
                "name": subject.distribution,
                "version": subject.release,
            },
        },
        "components": components,
    }
    image = {
        "SPDXID": "SPDXRef-image",
        "name": subject.distribution,
        "versionInfo": subject.release,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    }
    spdx = {
        "spdxVersion": "SPDX-2.3",
        "SPDXID": "SPDXRef-DOCUMENT",
        "dataLicense": "CC0-1.0",
        "name": f"{subject.name} ({whole})",
        "documentNamespace": subject.namespace,
        "creationInfo": {"created": time, "creators": ["Tool: metalserve"]},
        "packages": [image, *listed],
        "relationships": [_relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image"), *relations],
    }
    return cyclonedx, spdx


def _purl(package: Package, subject: Subject) -> str:
    epoch, colon, version = package.version.partition(":")
    qualifiers = f"arch={package.architecture}" + (f"&epoch={epoch}" if colon else "")
    name = quote(package.name, safe="")
    return f"pkg:rpm/{subject.distribution}/{name}@{quote(version if colon else epoch, safe='')}?{qualifiers}"


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
