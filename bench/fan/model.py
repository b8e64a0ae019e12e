"""The model that is shared: its files, its torrents, and whether a host has it right."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import random
import subprocess
from pathlib import Path

from metalserve.weights.agent.config import WantedFile
from metalserve.weights.agent.torrent import make_torrent, piece_size_for, with_authority

FANOUT = Path(__file__).resolve().parent.parent / "fanout.py"
"""What starts a worker: `fanout.py worker NAME ...`."""


def model(work: Path) -> list[WantedFile]:
    """Return the files of the model."""
    return [WantedFile(*each) for each in json.loads((work / "model.json").read_text())]


def prepare(work: Path, mib: int, hosts: int, python: str) -> None:
    """Make a model of `mib` MiB in eight files and two small ones, its torrents and the certificates."""
    from metalserve.weights.credentials import authority_of, credentials_of

    source = work / "source" / "model"
    source.mkdir(parents=True)
    generator = random.Random(5)
    files = []
    for name, size in [
        *((f"part-{i}.safetensors", mib * (1 << 20) // 8 + i) for i in range(8)),
        ("config.json", 900),
        ("tokenizer.json", 2 << 20),
    ]:
        digest = hashlib.sha256()
        with (source / name).open("wb") as file:
            while (left := size - file.tell()) > 0:
                chunk = generator.randbytes(min(left, 1 << 22))
                digest.update(chunk)
                file.write(chunk)
        files.append(WantedFile(name, size, digest.hexdigest()))
    (work / "model.json").write_text(json.dumps([(each.path, each.size, each.sha256) for each in files]))
    secret = "bench" * 8
    plain = make_torrent(source, files, piece_size_for(sum(each.size for each in files)))
    for name, torrent in (("plain", plain), ("tls", with_authority(plain, authority_of(secret)))):
        (work / f"v2-{name}.torrent").write_bytes(torrent)
        (work / f"v2-{name}.base64").write_bytes(base64.encodebytes(torrent))
    for host in range(hosts + 1):
        keys = credentials_of(secret, f"host-{host}")
        directory = work / f"keys-{host}"
        directory.mkdir(mode=0o700)
        for name, text in (("ca.pem", keys.authority), ("cert.pem", keys.certificate), ("key.pem", keys.key)):
            (directory / name).write_text(text)
    subprocess.run([python, str(FANOUT), "worker", "torrents", str(work)], check=True)
    done = work / "aria2-done"
    done.write_text('#!/bin/sh\nkill -TERM "$PPID"\n')
    done.chmod(0o755)


def wrong(work: Path, host: int) -> list[str]:
    """Return the files that a host does not have right."""
    found = []
    for each in model(work):
        places = [work / f"host-{host}" / each.path, work / f"host-{host}" / "model" / each.path]
        place = next((p for p in places if p.exists()), None)
        with contextlib.ExitStack() as stack:
            if place is not None:
                digest = hashlib.file_digest(stack.enter_context(place.open("rb")), "sha256").hexdigest()
            if place is None or digest != each.sha256:
                found.append(each.path)
    return found
