"""How engines are begun: the script itself, with a gate and a systemctl of the test's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from roles.vllm import desired as role
from roles.vllm.paths import GATE, UNVERIFIED
from tests.roles.engines import host

GATE_OF_THE_TEST = """#!/bin/sh
# Each waits until all four have been asked, which they never would be one after the other.
touch "{place}/asked.$MS_LISTEN"
for i in $(seq 100); do [ "$(ls {place} | grep -c asked)" = 4 ] && break; sleep 0.1; done
[ "$i" -lt 100 ] || {{ echo "asked one after the other"; exit 1; }}
case "$MS_LISTEN" in *"{refused}") echo "metalserve: engine not started: rows wait -> reset it" >&2; exit 1 ;; esac
"""


def begun(manifest: str, place: Path, *, refused: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the script that begins four engines; returns what it did, and the units that were started."""
    [action] = [a for a in role.serve(host(manifest)).actions if a.name.startswith("begin")]
    assert action.name.startswith("begin engine 0 on GPU 0, 1 on GPU 1, 2 on GPU 2, 3 on GPU 3, if driver")
    place.mkdir()
    tools = {
        "gate": GATE_OF_THE_TEST.format(place=place, refused=refused),
        "systemctl": f"#!/bin/sh\necho $* >>{place}/did",
    }
    for name, text in tools.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    script = action.script.replace(GATE, str(place / "gate")).replace(UNVERIFIED, str(place / "unverified"))
    (place / "unverified").write_text("made from a template\n")
    environment = {"PATH": f"{place}:/usr/bin:/bin", "TMPDIR": str(place)}
    done = subprocess.run(
        ["sh"], input=f"set -eu\n{script}", capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert not (place / "unverified").exists()
    assert not list(place.glob("tmp.*"))
    did = (place / "did").read_text().splitlines()
    return done, [line.split()[-1] for line in did if line.startswith("start --no-block")]


def test_the_gates_are_asked_side_by_side(manifest: str, tmp_path: Path) -> None:
    done, started = begun(manifest, tmp_path / "host", refused="none")
    assert done.returncode == 0, done.stdout + done.stderr
    assert started == [f"metalserve-vllm-{i}.service" for i in range(4)]


def test_an_engine_that_is_refused_keeps_no_other_from_starting(manifest: str, tmp_path: Path) -> None:
    done, started = begun(manifest, tmp_path / "host", refused=" 8001")
    assert done.returncode == 1
    assert started == [f"metalserve-vllm-{i}.service" for i in (0, 2, 3)]
    assert done.stdout.splitlines()[-1] == "metalserve: engine not started: rows wait -> reset it"
