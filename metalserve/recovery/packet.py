"""The RMA packet: one archive with all that a vendor asks for before it takes a part back."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from metalserve import __version__
from metalserve.errors import MetalserveError
from metalserve.hardware.node import NodeHardware
from metalserve.hardware.parsers.text import decode
from metalserve.recovery.keeping import file_name, tar_of
from metalserve.recovery.opening import files_of
from metalserve.recovery.packet_page import concerning, page
from metalserve.recovery.parts import machine_of, parts_of
from metalserve.recovery.reading import read_evidence
from metalserve.recovery.scrub import scrubbed
from metalserve.recovery.values import Attempt
from metalserve.recovery.verdict import Verdict, judge
from metalserve.report.writing import write_whole

SCHEMA: Final = 1


def write_packet(
    directory: Path,
    attempt: Attempt,
    evidence: Sequence[Path],
    hardware: NodeHardware | None,
    history: Sequence[Attempt],
    *,
    simulated: bool = False,
) -> Path:
    """Write the packet of a recovery that ended in quarantine; the same values give the same bytes.

    It is a tar.gz with README.txt (the page for the vendor), attempt.json, history.json, evidence/ and manifest.sha256.
    Secrets are struck out of all of it. It appears under its name only when it is whole on the disk.

    Args:
        directory: where it is written; made when it does not exist.
        attempt: the recovery.
        evidence: bundles (tar or directory) and files such as a nvidia-bug-report.log.gz, oldest first. What cannot be
            read is named in the page, and does not keep the packet from being written.
        hardware: what was last read of the host, or `None`.
        history: attempts of the whole fleet: a GPU is known by its serial number wherever it was.
        simulated: the GPUs are simulated; the page says so.

    Raises:
        MetalserveError: the packet cannot be written.
    """
    texts: list[tuple[str, str]] = []
    kept: dict[str, bytes] = {}
    looks: list[tuple[str, Verdict | str]] = []
    for number, path in enumerate(evidence, 1):
        where = f"evidence/{number:02}-{file_name(_stem(path))}"
        try:
            for name, content in _members(path):
                content = scrubbed(content)
                texts.append((f"{where}/{name}", decode(content)))
                kept[f"{where}/{name}"] = _packed(name, content)
            looks.append((where, judge(read_evidence([str(path)]), guess=False)))
        except MetalserveError as error:
            looks.append((where, f"could not be read: {error}"))
    parts = parts_of(attempt.subjects, texts, hardware)
    related = concerning(attempt, parts, history)
    kept["attempt.json"] = _json({"schema": SCHEMA, "simulated": simulated, **asdict(attempt)})
    kept["history.json"] = _json({"schema": SCHEMA, "attempts": [asdict(each) for each in related]})
    names = sorted([*kept, "README.txt"])
    text = page(attempt, parts, machine_of(texts, hardware), looks, history, names, simulated)
    kept["README.txt"] = scrubbed(f"{text}\nWritten by metalserve {__version__}.\n".encode())
    kept["manifest.sha256"] = "".join(f"{hashlib.sha256(kept[n]).hexdigest()}  {n}\n" for n in sorted(kept)).encode()
    ended = attempt.ended if attempt.ended is not None else attempt.begun
    name = f"rma-{file_name(attempt.host)}-{attempt.id}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(ended))}"
    target = directory / f"{name}.tar.gz"
    write_whole(target, gzip.compress(tar_of(name, kept, int(ended)), compresslevel=6, mtime=0))
    return target


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield what is in a bundle, by names that stay inside the packet."""
    taken: set[str] = set()
    for where, content in files_of(str(path)):
        inside = where.removeprefix(str(path)).lstrip(":/") or path.name
        name = "/".join(file_name(part) for part in inside.split("/") if part not in ("", ".", "..")) or "file"
        name = name.removeprefix("evidence/")
        while name in taken:
            name += "_"
        taken.add(name)
        yield name, content


def _packed(name: str, content: bytes) -> bytes:
    """What came compressed goes compressed: support's tools want a bug report by its own name."""
    return gzip.compress(content, mtime=0) if name.endswith(".gz") else content


def _stem(path: Path) -> str:
    return re.sub(r"\.(?:tar(?:\.gz)?|tgz|log\.gz|log|txt|json)$", "", path.name)


def _json(value: Any) -> bytes:
    return json.dumps(_clean(value), indent=1, sort_keys=True).encode() + b"\n"


def _clean(value: Any) -> Any:
    """Strike secrets out of the strings of a value: in the JSON made of it a match could take a quote with it."""
    if isinstance(value, str):
        return decode(scrubbed(value.encode(errors="replace")))
    if isinstance(value, dict):
        return {key: _clean(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(each) for each in value]
    return value
