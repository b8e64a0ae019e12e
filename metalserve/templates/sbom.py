"""The SBOM of an image: CycloneDX and SPDX, by debsbom for dpkg roots, from rpm's database by ourselves (`sbom_rpm`):
debsbom knows dpkg alone.

Both come out the same for the same root. debsbom writes SPDX in the order of Python sets, which changes from run to
run: it is put in order here.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalserve.templates.engine_image import EngineImage
from metalserve.templates.manifest import TemplateError, write_whole
from metalserve.templates.packages import Package
from metalserve.templates.rpm_database import query_rpm, rpm_database
from metalserve.templates.sbom_rpm import LICENCE_QUERY, from_packages, read_licences
from metalserve.templates.sbom_subject import Subject

CYCLONEDX, SPDX = "sbom.cdx.json", "sbom.spdx.json"

_RUN = """\
import functools, sys, license_expression
license_expression.get_spdx_licensing = functools.cache(license_expression.get_spdx_licensing)
from debsbom.cli import main
sys.exit(main())
"""
"""debsbom, with SPDX's list of licences read once and not once a package: 6 s of processor for 238 packages, not 33."""

_TIMEOUT_S = 600.0

_PACKAGE = re.compile(r"^Package: *(\S+)", re.MULTILINE)


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
        database = rpm_database(root)
        said = query_rpm(database, LICENCE_QUERY) if database is not None else ""
        documents = from_packages(packages, subject, read_licences(said))
    else:
        documents = _by_debsbom(root, subject)
        _complete(packages, documents)
    if subject.image is not None:
        add_image(documents, subject.image)
    for name, document in zip((CYCLONEDX, SPDX), documents, strict=True):
        write_whole(directory / name, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


_NOT_OPENED = "carried as an archive; what is in it is not listed here"


def add_image(documents: tuple[dict[str, Any], dict[str, Any]], image: EngineImage) -> None:
    """Add the engine's image to both documents, as one thing: its own contents are for an SBOM of its maker."""
    cyclonedx, spdx = documents
    name, reference = f"{image.repository}:{image.tag}", f"SPDXRef-engine-image-{image.sha256[:12]}"
    component = {
        "type": "container", "bom-ref": f"{name}@sha256:{image.sha256}", "name": image.repository, "version": image.tag,
        "description": _NOT_OPENED, "hashes": [{"alg": "SHA-256", "content": image.sha256}],
    }  # fmt: skip
    cyclonedx["components"] = [*cyclonedx.get("components", []), component]
    described = [
        each["relatedSpdxElement"]
        for each in spdx.get("relationships", [])
        if (each.get("spdxElementId"), each.get("relationshipType")) == ("SPDXRef-DOCUMENT", "DESCRIBES")
    ]
    package = {
        "SPDXID": reference, "name": image.repository, "versionInfo": image.tag, "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False, "primaryPackagePurpose": "CONTAINER", "comment": _NOT_OPENED,
        "licenseConcluded": "NOASSERTION", "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
        "checksums": [{"algorithm": "SHA256", "checksumValue": image.sha256}],
    }  # fmt: skip
    spdx["packages"] = [*spdx.get("packages", []), package]
    spdx["relationships"] = [
        *spdx.get("relationships", []),
        *(
            {"spdxElementId": whole, "relationshipType": "CONTAINS", "relatedSpdxElement": reference}
            for whole in described or ["SPDXRef-DOCUMENT"]
        ),
    ]


_READ = ("var/lib/dpkg/status", "var/lib/dpkg/arch-native", "var/lib/apt/extended_states")
_LISTS = "var/lib/apt/lists"
"""What debsbom reads of a root beside copyright files. Source: debsbom 0.10, generate/generate.py, apt/copyright.py."""


def what_it_reads(root: Path, packages: Sequence[Package], subject: Subject, place: Path) -> Path:
    """Return a root that gives the same SBOM and that nobody changes, so that `write_sbom` can run beside other work.

    Args:
        root: the image's root.
        packages: what is installed in it.
        subject: what the SBOM is about.
        place: where a copy is made; rpm's database needs none, since no later step of a build touches it.
    """
    if subject.distribution == "rocky":
        return root
    top = root.resolve()
    for name in (*_READ, *(f"usr/share/doc/{package.name}/copyright" for package in packages)):
        source = (root / name).resolve()
        if not source.exists() or not source.is_relative_to(top):  # a link that leads out of the tree
            continue
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    lists = (root / _LISTS).resolve()
    if lists.is_dir() and lists.is_relative_to(top):
        _copy_lists(lists, place / _LISTS, {package.name for package in packages} | {p.source for p in packages})
    return place


def _copy_lists(lists: Path, target: Path, names: set[str]) -> None:
    """Copy the indexes that debsbom reads, of an archive's packages only those that are installed or their sources:
    it looks each up by its name, and takes 6 s to read the 69,000 of Debian 13.
    """
    target.mkdir(parents=True)
    for path in sorted(lists.iterdir()):
        if path.name.endswith(("Release", "_Packages", "_Sources")) and path.is_file() and not path.is_symlink():
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            if not path.name.endswith("Release"):
                wanted = (each for each in text.split("\n\n") if _named(each) in names)
                text = "".join(f"{each.rstrip()}\n\n" for each in wanted)
            (target / path.name).write_text(text, encoding="utf-8", errors="surrogateescape")
        elif "_Packages." in path.name or "_Sources." in path.name:  # apt was told to keep them compressed
            shutil.copy2(path, target / path.name)


def _named(stanza: str) -> str | None:
    found = _PACKAGE.search(stanza)
    return found[1] if found else None


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
