"""Proves a build: what it holds, and how two copies of it boot on emulated machines, one after the other."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from metalserve.errors import MetalserveError
from metalserve.templates.check import verify_build
from metalserve.templates.manifest import DISK, Manifest
from metalserve.templates.proving_boot import LOOK, Booted, judge_boots, sections
from metalserve.templates.proving_image import judge_tree, take_out
from metalserve.templates.qemu import Drive, MachineSpec, powered_on
from metalserve.templates.qemu_parts import free_port, overlay, seed
from metalserve.templates.qemu_ssh import Shell, new_key, user_data
from metalserve.templates.shelf import Build
from metalserve.templates.signing import TrustedKey
from metalserve.templates.toolroot import ToolRoot
from metalserve.verify.finding import Finding, worst

SIMULATED: Final = "QEMU, TCG: simulated hardware"
GROWTH_BYTES: Final = 2 << 30
"""By how much the emulated disk is larger than the image."""

LARGEST_PACKED: Final = 4 << 30
"""Bytes of the compressed image above which a node's installation takes minutes on a 10 Gbit/s network with several at
once; a guess, a warning only."""

Advance = Callable[[str], None]
"""Is told what is done now."""

Roles = Callable[[Shell, Path], Finding]
"""Compares the roles with the machine that is reached by the shell; the directory is for its files."""


@dataclass(frozen=True)
class Limits:
    """How long things may take.

    Attributes:
        boot_s: seconds from power-on to SSH; a boot that takes longer is given up.
        look_s: seconds that the machine may take to come to rest once SSH answers.
        boots: how many copies are booted, one after the other.
    """

    boot_s: float = 900.0
    look_s: float = 900.0
    boots: int = 2


@dataclass
class Proof:
    """What was found of a build.

    Attributes:
        manifest: the build's manifest.
        findings: all findings.
        measured: sizes in bytes, times in seconds.
    """

    manifest: Manifest
    findings: list[Finding] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """True when no finding is failing."""
        return not any(finding.failing for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "schema": 1,
            "simulated": True,
            "machine": SIMULATED,
            "template": self.manifest.name,
            "build": self.manifest.build,
            "status": worst(self.findings),
            "measured": self.measured,
            "findings": [finding.as_dict() for finding in self.findings],
        }


def prove(
    build: Build,
    keys: Sequence[TrustedKey],
    tools: ToolRoot,
    work: Path,
    *,
    limits: Limits = Limits(),
    roles: Roles | None = None,
    advance: Advance = lambda words: None,
) -> Proof:
    """Prove a build; it is kept from being removed meanwhile.

    Args:
        build: the build.
        keys: who is trusted.
        tools: QEMU and what reads images.
        work: directory for copies of the disk; what is made in it is removed.
        limits: how long things may take.
        roles: compares the roles with the first machine.
        advance: is told what is done now.

    Raises:
        TemplateError: the build is not signed, or not what its manifest says: nothing of it is looked at then.
        MetalserveError: a program of the tool root failed.
    """
    with build.hold() as directory:
        advance("verifying signature and files")
        proof = Proof(verify_build(directory, keys))
        proof.findings.append(
            Finding("template-signature", "ok", "build", "signed, and every file as signed", "it is", source="manifest")
        )
        _size(proof)
        with _directory(work) as place:
            advance("looking into the image")
            proof.findings += _look_inside(tools, directory, place)
            _boot_all(proof, directory, tools, place, limits, roles, advance)
    return proof


def _size(proof: Proof) -> None:
    packed, raw = proof.manifest.files[DISK].size, proof.manifest.raw.size
    proof.measured |= {"packed_bytes": packed, "raw_bytes": raw, "packages": proof.manifest.packages}
    good = packed <= LARGEST_PACKED
    proof.findings.append(
        Finding(
            "template-size",
            "ok" if good else "warn",
            DISK,
            f"at most {LARGEST_PACKED >> 20} MiB",
            f"{packed >> 20} MiB, {raw >> 20} MiB on the disk",
            impact="" if good else "nodes that are installed at once wait for each other",
            remedy="" if good else "leave packages out; models belong on the storage, not into the image",
            source="manifest",
        )
    )


def _look_inside(tools: ToolRoot, directory: Path, place: Path) -> list[Finding]:
    disk, tree = place / "disk.raw", place / "tree"
    tree.mkdir()
    try:
        # sparse: a file system that is mostly empty takes no room
        command = ["zstd", "-dqf", "--sparse", str(directory / DISK), "-o", str(disk)]
        subprocess.run(command, check=True, capture_output=True)
        return judge_tree(take_out(tools, disk, tree))
    except (OSError, subprocess.CalledProcessError) as error:
        raise MetalserveError(f"cannot be uncompressed: {error}", where=str(directory / DISK)) from error
    finally:
        disk.unlink(missing_ok=True)
        shutil.rmtree(tree, ignore_errors=True)


def _boot_all(
    proof: Proof, directory: Path, tools: ToolRoot, place: Path, limits: Limits, roles: Roles | None, advance: Advance
) -> None:
    boots: list[Booted] = []
    for number in range(1, limits.boots + 1):
        advance(f"booting copy {number} of {limits.boots}")
        try:
            boots.append(_boot(proof, directory, tools, place / str(number), number, limits, roles, advance))
        except MetalserveError as error:
            kept = _kept(place / str(number) / "serial.log", place.parent / f"{proof.manifest.build}-boot{number}.log")
            proof.findings.append(
                Finding(
                    "template-boot",
                    "fail",
                    f"boot {number}",
                    f"SSH within {limits.boot_s:g} s of power-on",
                    str(error),
                    impact="a node made from it does not come up",
                    remedy=f"read the console's log: {kept}" if kept else "look into QEMU's own message",
                    source=SIMULATED,
                )
            )
            return
    proof.measured["boot_to_ssh_s"] = [round(boot.ssh_s, 1) for boot in boots]
    proof.findings += judge_boots(boots, SIMULATED)


def _boot(
    proof: Proof,
    directory: Path,
    tools: ToolRoot,
    place: Path,
    number: int,
    limits: Limits,
    roles: Roles | None,
    advance: Advance,
) -> Booted:
    place.mkdir()
    key, public = new_key(place)
    overlay(tools, directory / "disk.qcow2", place / "root.qcow2", proof.manifest.raw.size + GROWTH_BYTES)
    overlay_data = place / "data.raw"
    with overlay_data.open("wb") as stream:
        stream.truncate(1 << 30)
    hostname = f"copy-{number}"
    image = seed(
        tools, place, user_data=user_data(public), meta_data=f"instance-id: {hostname}\nlocal-hostname: {hostname}\n"
    )
    spec = MachineSpec(
        drives=(Drive("root.qcow2", f"ROOT{number}", "qcow2"), Drive(overlay_data.name, f"DATA{number}")),
        seed=image,
        serial=f"SIM{number:04}",
        uuid=f"6d657461-6c73-4572-8665-{number:012d}",
        mac=f"52:54:00:6d:73:{number:02x}",
        ssh_port=free_port(),
    )
    with powered_on(tools, spec, place, [directory]) as machine:
        shell = Shell(key, port=spec.ssh_port)
        ssh_s = shell.wait(machine, limits.boot_s)
        proof.findings.append(
            Finding(
                "template-boot",
                "ok",
                f"boot {number}",
                f"SSH within {limits.boot_s:g} s of power-on",
                f"{ssh_s:.0f} s" + (f", reset {machine.resets} times (emulated timer)" if machine.resets else ""),
                source=SIMULATED,
            )
        )
        advance(f"copy {number} answers by SSH after {ssh_s:.0f} s; waiting until it is at rest, and asking it")
        said = sections(shell.run(LOOK.read_text(), timeout_s=limits.look_s).stdout)
        if roles is not None and number == 1:
            advance("comparing the roles with it")
            proof.findings.append(roles(shell, place))
        # its own way down, so that what it keeps for the next boot (random seed) is as on a real node
        machine.power_off(graceful_s=60)
    return Booted(ssh_s, said, [drive.serial for drive in spec.drives], hostname)


def _kept(log: Path, target: Path) -> Path | None:
    """Keep a console's log, which would go with the machine's directory; None when there is none."""
    try:
        return Path(shutil.copyfile(log, target))
    except OSError:
        return None


@contextmanager
def _directory(work: Path) -> Iterator[Path]:
    work.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="test-", dir=work))
    try:
        yield place
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(place)
