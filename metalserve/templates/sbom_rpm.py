"""The SBOM of a root that rpm installed: CycloneDX and SPDX of the list of packages. Pure.

What it lacks against debsbom's for Debian: suppliers, checksums of packages, source packages as components of their
own, what depends on what.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

from metalserve.templates.packages import Package
from metalserve.templates.sbom_subject import NAMESPACE, Subject

LICENCE_QUERY: Final = r"%{NAME}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\t%{LICENSE}\n"
"""What `rpm -qa --queryformat` takes to print what `read_licences` reads."""


def read_licences(text: str) -> dict[tuple[str, str], str]:
    """Return (name, version) -> licence of what `rpm -qa --queryformat LICENCE_QUERY` printed; lines amiss are left."""
    rows = [line.split("\t") for line in text.splitlines()]
    return {(row[0], row[1]): row[2] for row in rows if len(row) == 3 and row[2] not in ("", "(none)")}


def from_packages(
    packages: Sequence[Package], subject: Subject, licences: Mapping[tuple[str, str], str] = MappingProxyType({})
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a CycloneDX 1.6 and an SPDX 2.3 document that list packages of rpm.

    Args:
        packages: what is installed.
        subject: what the documents are about.
        licences: (name, version) -> licence, in the words of the package: those of RHEL 9 are no SPDX expressions.
    """
    whole = f"{subject.distribution} {subject.release}"
    time = subject.time.replace("+00:00", "Z")
    components, listed, relations = [], [], []
    for package in sorted(packages):
        purl, licence = _purl(package, subject), licences.get((package.name, package.version), "")
        components.append(
            {
                "type": "library",
                "bom-ref": purl,
                "name": package.name,
                "version": package.version,
                "purl": purl,
                "properties": [{"name": "metalserve:source", "value": package.source}],
                **({"licenses": [{"license": {"name": licence}}]} if licence else {}),
            }
        )
        reference = "SPDXRef-" + uuid.uuid5(NAMESPACE, purl).hex
        listed.append(
            {
                "SPDXID": reference,
                "name": package.name,
                "versionInfo": package.version,
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": False,
                "supplier": "NOASSERTION",
                "sourceInfo": f"built from {package.source}",
                **({"licenseComments": f"the package says: {licence}"} if licence else {}),
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
