"""A template from nothing to the shelf: each step by name, all of it gone again where one fails.

What is mounted and started belongs to namespaces that end with this process; what is written lies in one directory
below `work`, which the next build of the same template empties. Only a finished build gets on the shelf, by one rename.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.paths import templates_directory
from metalserve.templates import pack
from metalserve.templates.archive import Archive, check_unchanged, mirrors_for, read_archive
from metalserve.templates.boot_chain import foreign_modules, unsigned
from metalserve.templates.building_roles import check_connector, converge
from metalserve.templates.changes import CHANGES, Side, parts_of
from metalserve.templates.checks import problems, runner
from metalserve.templates.clean import clean, remove, settle_times
from metalserve.templates.engine_image import check_room, engine_image, fetch_archive, place_archive, tree_bytes
from metalserve.templates.inputs import release_digest, role_digests, spec_digest
from metalserve.templates.kernels import kernel_release
from metalserve.templates.machine import furnish, prepare, users_script
from metalserve.templates.manifest import (
    DISK,
    BaseSystem,
    Boot,
    Inputs,
    Kernel,
    Manifest,
    Reproducible,
    build_name,
    file_entries,
    moment,
)
from metalserve.templates.packages import TSV, packages_of_root, write_tsv
from metalserve.templates.packing import pack_all
from metalserve.templates.rootfs import make_rootfs, run_logged
from metalserve.templates.sbom import what_it_reads, write_sbom
from metalserve.templates.sbom_subject import Subject
from metalserve.templates.shelf import Build, Shelf
from metalserve.templates.signing import secret_key_path
from metalserve.templates.since import write_changes
from metalserve.templates.spec import TemplateSpec
from metalserve.templates.steps import Step, no_step
from metalserve.templates.toolroot import ToolRoot
from metalserve.trees.debian import remove_tree
from metalserve.trees.image import STAND_INS, command_in_image
from metalserve.trees.system import PACKAGE_OF, held

_MIB = 1 << 20
_SPARE_MIB = 1024
_PROGRAMS = {"unshare": "util-linux", "setpriv": "util-linux", "mmdebstrap": "mmdebstrap", "mount": "mount"}


@dataclass(frozen=True)
class Built:
    """A finished tree with everything beside it, before it is published.

    Attributes:
        place: its directory.
        manifest: of it.
    """

    place: Path
    manifest: Manifest


def build_template(
    spec: TemplateSpec,
    *,
    shelf: Shelf,
    tools: ToolRoot,
    key: Path | None = None,
    keep: bool = False,
    step: Step = no_step,
) -> Build:
    """Build a template and put it on the shelf.

    Args:
        spec: the template.
        shelf: where it is published; on the file system of the templates' directory.
        tools: the tool root.
        key: secret key; the one that METALSERVE_TEMPLATE_KEY names when not given.
        keep: leave the working directory of a build that fails.
        step: is told of every step.

    Raises:
        MetalserveError: another build of it runs, the disk is too full, the mirror is not in reach, a package or a role
            failed, or the finished tree is not fit to be an image.
    """
    check_machine(spec)
    key = key or secret_key_path()
    work = templates_directory() / "work"
    with _told(spec), _alone(work, spec.name):
        check_space(work, spec)
        place = work / spec.name
        remove_tree(place)
        place.mkdir()
        try:
            made = _make(spec, shelf, tools, place, step)
            with step("published"):
                build = shelf.publish(made.place, made.manifest, key=key)
        except BaseException:
            if not keep:
                remove_tree(place)
            raise
        remove_tree(place)
        return build


def _make(spec: TemplateSpec, shelf: Shelf, tools: ToolRoot, place: Path, step: Step) -> Built:
    created = moment()
    carried, archived = engine_image(spec), None
    if carried is not None:
        with step("the engine's image"):
            archived = fetch_archive(carried, templates_directory() / "cache" / "engine-images")
            check_room(spec, archived)
    with step(f"archive of {spec.os.id}"):
        archive = read_archive(spec.os, mirrors_for(spec.os))
    inputs = inputs_of(spec, archive, tools)
    identity = pack.Identity.of(f"{spec.name} {inputs.digest}")
    root, log = place / "root", place / "build.log"
    cache = templates_directory() / "cache" / spec.os.id
    with step(f"root file system of {spec.os.id}"):
        make_rootfs(spec, archive, root, cache=cache, log=log)
    if spec.users:
        with step("users"):
            line = command_in_image(root, ["sh", "-c", users_script(spec.users)], epoch=archive.epoch)
            run_logged(line, log, f"users of {spec.name}")
    prepare(root)
    if spec.roles:
        with step(f"roles: {', '.join(spec.roles)}"):
            converge(spec, root, epoch=archive.epoch, cache=cache, place=place)
    check_unchanged(root, archive)
    with step("packages"):
        out = place / "out"
        out.mkdir()
        installed = packages_of_root(root)
        write_tsv(installed, out / TSV)
        subject = Subject(spec.name, inputs.digest, spec.os.distribution, spec.os.release, archive.epoch, carried)
        # from a copy, for cleaning takes the lists of packages away while the SBOM is being written
        seen = what_it_reads(root, installed, subject, place / "sbom")
    boot = Boot(chain=spec.chain, unsigned_modules=unsigned(foreign_modules(root, runner(root))))
    base = BaseSystem(distribution=spec.os.distribution, release=spec.os.release)
    kernel = Kernel(package=spec.kernel.package or "by file", version=kernel_release(root))
    build = build_name(created, inputs)
    with ThreadPoolExecutor(max_workers=1) as beside:
        sbom = beside.submit(write_sbom, seen, installed, subject, out)
        if spec.roles:
            with step("roles again, which must have nothing to do"):
                _nothing_left(spec, converge(spec, root, epoch=archive.epoch, cache=cache, place=place))
        with step("changes since the build before"):
            parts = parts_of(base, spec.architecture, kernel, spec.release, inputs, archive.epoch)
            side = Side(build, parts, tuple(installed))
            write_changes(shelf, spec.name, side, root, out, rpm=spec.os.family == "dnf")
        with step("cleaned and checked"):
            clean(root, spec.os, archive.mirrors)
            furnish(spec, root, identity, inputs.digest, archive.epoch)
            if carried is not None and archived is not None:
                check_room(spec, archived, tree_bytes(root))
                place_archive(carried, archived, root, archive.epoch)
            _check(spec, root, identity, archive, place)
            settle_times(root, archive.epoch)
        raw = pack_all(pack.Packer(spec, identity, archive.epoch, tools, place), out, step)
        with step("SBOM"):
            sbom.result()
    manifest = Manifest(
        schema=1, name=spec.name, build=build, created=created,
        source_date_epoch=archive.epoch, inputs=inputs,
        os=base, architecture=spec.architecture, kernel=kernel, boot=boot,
        release=spec.release, files=file_entries(out), raw=raw, packages=len(installed),
        reproducible=reproducible(spec, root),
    )  # fmt: skip
    return Built(out, manifest)


def _nothing_left(spec: TemplateSpec, changes: list[str]) -> None:
    if changes:
        raise MetalserveError(
            f"the roles are not done after one run: {'; '.join(changes[:3])}", where=spec.name,
            remedy="this is a fault of a role: a node made from it would be changed by each run",
        )  # fmt: skip


_COMPILED = "holds kernel modules compiled by DKMS in the build: two builds of them were not compared yet"


def reproducible(spec: TemplateSpec, root: Path) -> Reproducible:
    """Return what two builds of the same inputs give again byte for byte; tests/real_templates compares them.

    Where DKMS compiled modules, nothing that holds them is promised.
    """
    identical = ["raw", *pack.artefacts(spec), TSV, "sbom.cdx.json", "sbom.spdx.json"]
    differs = {CHANGES: "names the builds that it compares"}
    if any(root.glob("usr/lib/modules/*/updates/dkms/*.ko*")):
        holding = ("raw", DISK, pack.QCOW2, pack.ROOT_TAR)
        identical = [name for name in identical if name not in holding]
        differs |= dict.fromkeys(holding, _COMPILED)
    return Reproducible(identical=identical, differs=differs)


def inputs_of(spec: TemplateSpec, archive: Archive, tools: ToolRoot) -> Inputs:
    """Return everything that decides how the build comes out."""
    return Inputs(
        spec=spec_digest(spec),
        roles=role_digests(spec.roles),
        release=release_digest(spec.release),
        suites=dict(archive.suites),
        tools=tools.digest,
        engine_image=carried.sha256 if (carried := engine_image(spec)) is not None else None,
    )


def _check(spec: TemplateSpec, root: Path, identity: pack.Identity, archive: Archive, place: Path) -> None:
    strangers = [str(place), archive.mirrors.archive, archive.mirrors.security or ""]
    own = {spec.os.mirror, spec.os.security}
    wrong = problems(
        spec, root, identity, runner(root), strangers=[text for text in strangers if text not in own and text]
    )
    for name in STAND_INS:  # the checks' own container has laid them there again
        remove(root / name)
    if wrong:
        raise MetalserveError(
            f"the tree is not fit to be an image: {'; '.join(wrong[:5])}",
            where=spec.name,
            remedy=f"{len(wrong)} in all; build with --keep and look at {root}",
        )


def check_machine(spec: TemplateSpec) -> None:
    """Refuse a user or machine that cannot build.

    Raises:
        MetalserveError: not root, programs are missing (all are named, with their packages), or pyinfra does not find
            the connector that the roles need.
    """
    if os.geteuid() != 0:
        raise MetalserveError(
            "building needs root (it makes file systems with owners)", where=spec.name, remedy="run it with sudo"
        )
    needed = {**_PROGRAMS, **({"dnf": "dnf"} if spec.os.family == "dnf" else {})}
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        packages = " ".join(sorted({PACKAGE_OF.get(name, needed[name]) for name in missing}))
        raise MetalserveError(
            f"programs missing: {', '.join(missing)}", where=spec.name, remedy=f"apt-get install {packages}"
        )
    if spec.roles:
        check_connector()


def check_space(work: Path, spec: TemplateSpec) -> None:
    """Refuse to begin what the disk has no room for: the tree, the disk, and three compressed ones.

    Raises:
        MetalserveError: there is too little.
    """
    needed = 3 * spec.disk.root_mib + 2 * spec.disk.esp_mib + _SPARE_MIB
    free = shutil.disk_usage(work).free // _MIB
    if free < needed:
        raise MetalserveError(
            f"{free} MiB are free, and a build needs up to {needed} MiB",
            where=str(work),
            remedy="make room (`metalserve template gc`), or name another directory: METALSERVE_TEMPLATES_DIR",
        )


@contextmanager
def _told(spec: TemplateSpec) -> Iterator[None]:
    """What this machine refuses (a full disk, above all) in one line."""
    try:
        yield
    except OSError as error:
        raise MetalserveError(
            f"{error.filename or 'a file'}: {error.strerror or error}",
            where=spec.name,
            remedy="make room (`metalserve template gc`) and build it again" if error.errno == errno.ENOSPC else None,
        ) from error


@contextmanager
def _alone(work: Path, name: str) -> Iterator[None]:
    work.mkdir(parents=True, exist_ok=True)
    with held(work / f".{name}.lock", f"metalserve template build {name}", thing="this template", where=name):
        yield


__all__ = ["Built", "build_template", "check_machine", "check_space", "inputs_of"]
