"""How an image comes from an archive: the script itself, with a docker of the test's own and a real server."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from metalserve.desired.render import prelude
from metalserve.hardware.section import Section
from roles.vllm import desired as role
from roles.vllm.paths import ARCHIVES, IMAGE_MARKER
from tests.roles.engines import host

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")

CONTENT = b"an image" * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The URL of an archive, and the requests that came for it."""
    asked: list[str] = []

    class Told(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    (tmp_path / "www").mkdir()
    (tmp_path / "www/vllm.tar").write_bytes(CONTENT)
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Told, directory=str(tmp_path / "www")))
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_address[1]}/vllm.tar", asked
    found.shutdown()
    found.server_close()


def loaded(
    manifest: str, url: str, place: Path, there: bytes | None
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the load on a host that has `there` by the archive's name; returns what it did, and what was loaded."""
    archive = {"image_archive": url, "image_archive_sha256": SHA256}
    node = host(manifest, engine=archive, sections={"engine-image": Section("Error: No such image", 1)})
    [action] = [a for a in role.install(node).actions if a.name.startswith("load image")]
    (place / "images").mkdir(parents=True)
    if there is not None:
        (place / f"images/{SHA256}.tar").write_bytes(there)
    docker = place / "docker"
    docker.write_text(f'#!/bin/sh\n[ "$1" = load ] || exit 0\nshift 3; sha256sum <"$1" >>{place}/loaded\n')
    docker.chmod(0o755)
    script = action.script.replace(ARCHIVES, str(place / "images")).replace(IMAGE_MARKER, str(place / "state/marker"))
    script = script.replace("root root", f"{place.owner()} {place.group()}").replace("docker ", f"{docker} ")
    done = subprocess.run(
        ["sh"], input=f"set -eu\n{prelude()}\n{script}", capture_output=True, text=True, timeout=60, check=False
    )
    told = place / "loaded"
    return done, [line.split()[0] for line in told.read_text().splitlines()] if told.exists() else []


@pytest.mark.parametrize(
    ("there", "asks"),
    [(CONTENT, False), (None, True), (CONTENT[:5000], True), (b"x" * 70_000, True), (b"x" * len(CONTENT), True)],
    ids=["carried by the template", "not there", "broken off", "larger, another", "as large, another"],
)
def test_what_is_there_already_is_taken_only_by_its_hash(
    manifest: str, server: tuple[str, list[str]], tmp_path: Path, there: bytes | None, asks: bool
) -> None:
    done, given = loaded(manifest, server[0], tmp_path / "host", there)
    assert done.returncode == 0, done.stdout + done.stderr
    assert given == [SHA256]
    assert bool(server[1]) is asks
    assert list((tmp_path / "host/images").iterdir()) == [], "the archive's room is given back"
    assert (tmp_path / "host/state/marker").read_text() == f"{SHA256}\n"


def test_without_a_server_what_the_template_carries_is_enough(manifest: str, tmp_path: Path) -> None:
    done, given = loaded(manifest, "http://127.0.0.1:9/vllm.tar", tmp_path / "host", CONTENT)
    assert (done.returncode, given) == (0, [SHA256]), done.stderr


def test_another_file_behind_the_url_is_never_loaded(
    manifest: str, server: tuple[str, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "www/vllm.tar").write_bytes(b"somebody else's")
    done, given = loaded(manifest, server[0], tmp_path / "host", b"somebody")
    assert (done.returncode, given) == (1, [])
    assert f"expected {SHA256} -> correct engine.image_archive_sha256" in done.stderr
    assert list((tmp_path / "host/images").iterdir()) == []
