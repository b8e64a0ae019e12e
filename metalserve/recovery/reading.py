"""Reads evidence from files: a kernel log, an engine's log, `nvidia-smi -q`, a bug report, a directory or tar of them.

What a file is, is seen from what it holds, since people paste and rename. Nothing is run and nothing is written.
"""

from __future__ import annotations

import gzip
import io
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from metalserve.catalogue.causes import Log, load_causes
from metalserve.catalogue.loader import load_gpus
from metalserve.errors import MetalserveError
from metalserve.hardware.gpu_details import gpu_details
from metalserve.hardware.node import NodeHardware
from metalserve.hardware.parsers.smi import smi_failure
from metalserve.hardware.parsers.smi_q import parse_smi_q
from metalserve.hardware.parsers.text import ParseError, decode
from metalserve.hardware.values import Gpu
from metalserve.recovery.bundle import Bundle, bundle_of
from metalserve.recovery.evidence import Evidence
from metalserve.verify.health import check_gpus

SIZE_LIMIT: Final = 256 << 20
"""Bytes of one file after decompression; a nvidia-bug-report has some tens of MiB."""
FILE_LIMIT: Final = 2000
"""Files of one directory or tar."""

_SMI_FAILURE_LIMIT: Final = 20_000
"""Characters of a text that may be nothing but a complaint of nvidia-smi; it prints its table after some of them."""

Part = Literal["kernel", "earlier", "fabric", "engine", "smi-q"]

_SMI = re.compile(r"^=+NVSMI LOG=+[ \t]*$", re.MULTILINE)
_END_OF_SMI = re.compile(r"^(?:_{20,}|\*\*\* .{1,200})[ \t]*$", re.MULTILINE)
_FABRIC = re.compile(r"nv-fabricmanager|\[tid \d+\]|Fabric Manager version is")
_ENGINE = re.compile(
    r"\bvllm\b|EngineCore|ProcessGroupNCCL|APIServer pid=|torch\.(?:cuda\.)?OutOfMemoryError|uvicorn", re.IGNORECASE
)
_KERNEL = re.compile(
    r"NVRM: |SXid \(|^\[ {0,8}\d{1,9}\.\d{6}\]|^\[[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}\]|\bkernel: "
    r"|^\d{1,3},\d+,\d+,[-c+];|^kern {2}:|nvme\d+: |PCIe Bus Error|(?:XFS|EXT4-fs) |Out of memory: Kill|Kernel panic",
    re.MULTILINE,
)


@dataclass
class _Parts:
    """What was found, as it is read."""

    texts: dict[Part, list[str]] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    gpus: list[Gpu] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    smi: str = ""
    smi_status: int = 0
    lacking: list[str] = field(default_factory=list)

    def add(self, part: Part, text: str) -> None:
        self.texts.setdefault(part, []).append(text)

    def text(self, part: Part) -> str | None:
        found = self.texts.get(part)
        return "\n".join(found) if found else None


def read_evidence(names: Iterable[str]) -> Evidence:
    """Read evidence from files, directories, tar archives, or standard input (`-`).

    Raises:
        MetalserveError: a file cannot be read, is too large, or none of them holds anything known.
    """
    names = list(names)
    return evidence_of([(name, [(where, decode(raw)) for where, raw in files_of(name)]) for name in names])


def evidence_of(given: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> Evidence:
    """Make evidence of texts that are at hand.

    Args:
        given: (name, files) of each source; a file is (path, text).

    Raises:
        MetalserveError: none of them holds anything known.
    """
    parts = _Parts()
    known = 0
    for name, files in given:
        bundle = bundle_of(files)
        if bundle is not None:
            known += _take_bundle(name, bundle, parts)
            continue
        for where, text in files:
            known += _take(where, text, parts)
    if not known:
        raise MetalserveError(
            "holds no kernel log, engine log, log of fabric manager or `nvidia-smi -q`",
            where=", ".join(name for name, _ in given),
            remedy="give `dmesg`, `journalctl -k`, `docker logs ENGINE`, or a nvidia-bug-report.log.gz",
        )
    for part, words in (("kernel", "the kernel log"), ("smi-q", "`nvidia-smi -q`")):
        if part == "kernel" and not parts.texts.get("kernel"):
            parts.lacking.append(words)
        if part == "smi-q" and not parts.gpus and not parts.smi:
            parts.lacking.append(f"{words}: what the driver itself asks for is not known")
    hardware = NodeHardware(gpus=tuple(parts.gpus), smi_state="ok") if parts.gpus else None
    return Evidence(
        kernel=parts.text("kernel"),
        earlier=parts.text("earlier"),
        fabric=parts.text("fabric"),
        engines=parts.engines,
        smi=parts.smi,
        smi_status=parts.smi_status,
        silent_engines=tuple(parts.silent),
        hardware=hardware,
        findings=tuple(check_gpus(hardware, load_gpus())) if hardware else (),
        lacking=tuple(parts.lacking),
    )


def files_of(name: str) -> Iterator[tuple[str, bytes]]:
    """Yield (where, content) of a file, of all files of a directory or tar, or of standard input (`-`), decompressed.

    Raises:
        MetalserveError: it cannot be read or is too large.
    """
    if name == "-":
        yield "standard input", _unpacked("standard input", sys.stdin.buffer.read(SIZE_LIMIT + 1))
        return
    path = Path(name)
    try:
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.is_file() and not each.is_symlink())
            if len(inside) > FILE_LIMIT:
                raise MetalserveError(f"has more than {FILE_LIMIT} files", where=name)
            for each in inside:
                yield str(each), _unpacked(str(each), each.read_bytes())
        elif _is_tar(path):
            yield from _of_tar(path)
        else:
            yield name, _unpacked(name, path.read_bytes())
    except OSError as error:
        raise MetalserveError(f"cannot be read: {error.strerror}", where=name) from error
    except tarfile.TarError as error:
        raise MetalserveError(f"cannot be read: {error}", where=name) from error


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except EOFError:  # a .gz that was cut off: what it is, is said when it is read
        return False


def _of_tar(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for number, member in enumerate(archive):
            if number >= FILE_LIMIT:
                raise MetalserveError(f"has more than {FILE_LIMIT} files", where=str(path))
            if member.isfile() and member.size <= SIZE_LIMIT:  # read only, never unpacked: its names do not matter
                content = archive.extractfile(member)
                if content is not None:
                    yield f"{path}:{member.name}", _unpacked(member.name, content.read())


def _unpacked(where: str, raw: bytes) -> bytes:
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.GzipFile(fileobj=io.BytesIO(raw)).read(SIZE_LIMIT + 1)
        except (OSError, EOFError) as error:
            raise MetalserveError(f"cannot be decompressed: {error}", where=where) from error
    if len(raw) > SIZE_LIMIT:
        raise MetalserveError(
            f"is larger than {SIZE_LIMIT >> 20} MiB", where=where, remedy="cut out the time in question"
        )
    return raw


def _take_bundle(name: str, bundle: Bundle, parts: _Parts) -> int:
    """Take a bundle of `metalserve diagnose`: what each file is, its name says."""
    for part, text in (("kernel", bundle.kernel), ("earlier", bundle.earlier), ("fabric", bundle.fabric)):
        if text:
            parts.add(part, text)  # type: ignore[arg-type]  # the names are those of Part
    parts.engines.update(bundle.engines)
    parts.silent.extend(bundle.silent)
    if bundle.smi_status:
        parts.smi, parts.smi_status = bundle.smi, bundle.smi_status
    elif bundle.smi:
        _take(name, bundle.smi, parts)
    parts.lacking.extend(bundle.lacking)
    return 1


def _take(where: str, text: str, parts: _Parts) -> int:
    """Take what a file holds; returns how many kinds of evidence were in it."""
    taken = 0
    rest = ""
    last = 0
    for found in _SMI.finditer(text):
        end = _END_OF_SMI.search(text, found.end())
        stop = end.start() if end else len(text)
        rest += text[last : found.start()]
        last = stop
        taken += 1
        try:
            report = parse_smi_q(text[found.start() : stop])
        except ParseError as error:
            parts.lacking.append(f"{where}: `nvidia-smi -q` was not understood: {error}")
            continue
        if not parts.gpus:  # a bug report holds several, all of the same moment: the first is whole
            pairs = zip(report.gpus, report.trees, strict=True)
            parts.gpus.extend(replace(gpu, details=gpu_details(tree)) for gpu, tree in pairs)
    rest += text[last:]
    name = Path(where).name
    if not taken and len(text) < _SMI_FAILURE_LIMIT and smi_failure(text) is not None and not _KERNEL.search(text):
        parts.smi += text
        return 1
    if _FABRIC.search(rest) and not _KERNEL.search(rest) and not _has_sign(rest, "engine"):
        parts.add("fabric", rest)
        return taken + 1
    if _KERNEL.search(rest) or _has_sign(rest, "kernel"):
        # one paste may hold both: signs are looked for by kind, and a kind does not match another's lines
        parts.add("earlier" if re.search(r"previous|earlier|boot-1", name) else "kernel", rest)
        taken += 1
        if _FABRIC.search(rest):
            parts.add("fabric", rest)
    if _ENGINE.search(rest) or _has_sign(rest, "engine"):
        parts.engines[_engine_name(name, len(parts.engines))] = rest
        taken += 1
    return taken


def _has_sign(text: str, log: Log) -> bool:
    return any(sign.compiled.search(text) for sign in load_causes().signs if sign.log == log)


def _engine_name(name: str, number: int) -> str:
    found = re.search(r"engine[-_ ]?(\d{1,3})", name)
    return f"engine {found[1]}" if found else f"engine {number}"
