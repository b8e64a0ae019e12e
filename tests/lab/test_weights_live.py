"""Staging on a host of its own, with real bytes: what is cut off at controller, host or server goes on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalserve.lab import service
from metalserve.paths import ROOT
from tests.lab.conftest import beside
from tests.lab.fleet import Fleet, Ran
from tests.lab.models import MIB, Model, publish

pytestmark = [pytest.mark.lab, pytest.mark.slow]

HOSTS = """\
release: 2026.11-lts
hosts:
  node: {profile: none, suite: bookworm}
"""
DEPLOY = "deploys/weights.py"
TOKEN = "hf_5f0c2d7e91TokenOfNobody"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("weights")
    lab = beside(directory / "lab", 50 + os.getpid() % 40, HOSTS)
    try:
        yield Fleet(lab, directory)
    finally:
        lab.down()


@pytest.fixture(scope="module")
def model(fleet: Fleet) -> Model:
    """A gigabyte."""
    return publish(fleet.lab, fleet.directory, "lab/large", "a")


@pytest.fixture
def empty(fleet: Fleet) -> Iterator[None]:
    """Nothing is staged, and the file service is there, before and after each test."""

    def clear() -> None:
        service.start(fleet.lab.layout)
        fleet.lab.ssh(
            "node", "systemctl stop 'metalserve-weights@*'; umount /srv/models 2>/dev/null; rm -rf /srv/models/*"
        )

    clear()
    yield
    clear()


def settings(model: Model, *, rate: float = 40, **more: Any) -> dict[str, Any]:
    told = {"storage": {"device": "none"}, "staging": {"rate_mib_s": rate, **more.pop("staging", {})}}
    return {"node": {**told, **model.settings(**more)}}


def unit(model: Model) -> str:
    return f"metalserve-weights@{model.key}.service"


def progress(fleet: Fleet, model: Model) -> dict[str, Any]:
    said = fleet.lab.ssh("node", f"cat /run/metalserve/weights/{model.key}.json").stdout
    found: dict[str, Any] = json.loads(said) if said else {}
    return found


def wait_for_bytes(fleet: Fleet, model: Model, count: int, timeout_s: float = 90) -> int:
    """Wait until so many bytes came; returns how many there are."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = progress(fleet, model)
        if found.get("phase") == "fetching" and found["bytes_done"] >= count:
            return int(found["bytes_done"])
        assert found.get("phase") not in ("failed", "done"), found
        time.sleep(0.2)
    raise AssertionError(f"never {count} bytes: {progress(fleet, model)}")


def is_right(fleet: Fleet, model: Model) -> None:
    """Every byte on the host is the file service's."""
    served = fleet.lab.layout.www / "models" / model.name / "resolve" / model.revision
    sums = subprocess.run(f"cd {served} && sha256sum *", shell=True, capture_output=True, text=True, check=True).stdout
    there = fleet.lab.ssh("node", f"cd {model.published} && sha256sum *").stdout
    assert there == sums


def sent(fleet: Fleet) -> int:
    """Return the bytes that the file service was asked for, whether or not all of them arrived."""
    log = fleet.lab.layout.root / "requests.log"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return sum(row["length"] for row in rows if "/models/lab/" in row["path"] and row["method"] == "GET")


def command(fleet: Fleet, overrides: dict[str, Any], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "metalserve", "weights", words[0], "inventories/lab.py", *words[1:]],
        cwd=ROOT,
        env=fleet.environment(overrides),
        capture_output=True,
        text=True,
        timeout=300,
    )


def finished(fleet: Fleet, model: Model, run: Ran) -> None:
    assert run.rc == 0, run.out
    assert run.statuses == {"node": "changed"}
    is_right(fleet, model)
    again = fleet.run(deploy=DEPLOY, overrides=settings(model))
    assert again.statuses == {"node": "unchanged"} and again.report["hosts"]["node"]["sessions"] == 1, again.out


def test_a_killed_controller_ends_nothing_and_the_next_follows(
    fleet: Fleet, model: Model, empty: None, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    overrides = settings(model, rate=30, hf_token={"command": ["cat", str(tmp_path / "token")]})
    arguments = fleet.command(deploy=DEPLOY)
    first = subprocess.Popen(
        arguments, cwd=ROOT, env=fleet.environment(overrides), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        came = wait_for_bytes(fleet, model, 64 * MIB)
    finally:
        first.kill()
        first.wait()
    secret = f"/run/metalserve/weights/{model.key}.secret"
    assert fleet.lab.ssh("node", f"stat -c '%a %U' {secret}").stdout == "600 root\n"
    holders = fleet.lab.ssh("node", f"grep -rlF {TOKEN} /etc /run/systemd /var/log /proc/[0-9]*/cmdline; true").stdout
    assert holders == "", holders
    began = fleet.lab.ssh("node", f"systemctl show -p ExecMainPID --value {unit(model)}").stdout
    later = wait_for_bytes(fleet, model, came + 32 * MIB)
    looked = command(fleet, overrides, "status", "--json")
    (told,) = json.loads(looked.stdout)["hosts"][0]["models"]
    assert looked.returncode == 1 and told["state"] == "partial" and told["running"] == ["stage"]
    assert told["progress"]["bytes_done"] >= later and told["progress"]["rate_bytes_s"] > 0
    run = fleet.run(deploy=DEPLOY, overrides=overrides)
    assert "follow the staging of lab/large" in run.out
    assert re.search(r"fetching: \d\.\d\d of 1\.00 GiB, \d+\.\d MiB/s, about \d+ s left", run.out), run.out
    journal = fleet.lab.ssh("node", f"journalctl -q -u {unit(model)} _COMM=systemd -o cat").stdout
    assert fleet.lab.ssh("node", f"journalctl -q -o cat _PID={began.strip()} | grep -c '^staging '").stdout == "1\n"
    assert journal.count("Started ") <= 2
    assert fleet.lab.ssh("node", f"test -e {secret}").returncode == 1, "gone with the unit, without the controller"
    finished(fleet, model, run)
    assert command(fleet, overrides, "status").returncode == 0


def test_a_host_that_lost_its_power_goes_on_from_what_it_had(fleet: Fleet, model: Model, empty: None) -> None:
    before = sent(fleet)
    first = fleet.start(overrides=settings(model), deploy=DEPLOY)
    # what was not synced yet is lost with the power, so that some of it must be old enough
    came = wait_for_bytes(fleet, model, 400 * MIB)
    fleet.lab.stop("node", grace_s=0)
    said, _ = first.communicate(timeout=180)
    assert first.returncode == 1
    assert "run again" in said, said
    fleet.lab.start("node")
    run = fleet.run(deploy=DEPLOY, overrides=settings(model, rate=0))
    finished(fleet, model, run)
    # the file service logs whole answers only: what was cut off counts nothing, what came after is what lacked
    assert sent(fleet) - before <= model.total
    assert came > 0


def test_a_server_that_goes_away_is_waited_for_or_told_and_nothing_is_lost(
    fleet: Fleet, model: Model, empty: None
) -> None:
    first = fleet.start(overrides=settings(model, rate=60), deploy=DEPLOY)
    wait_for_bytes(fleet, model, 128 * MIB)
    service.stop(fleet.lab.layout)
    time.sleep(3)
    service.start(fleet.lab.layout)
    said, _ = first.communicate(timeout=180)
    assert first.returncode == 0, said
    is_right(fleet, model)


def test_a_server_that_stays_away_is_named(fleet: Fleet, model: Model, empty: None) -> None:
    first = fleet.start(overrides=settings(model, rate=60), deploy=DEPLOY)
    came = wait_for_bytes(fleet, model, 128 * MIB)
    service.stop(fleet.lab.layout)
    said, _ = first.communicate(timeout=400)
    assert first.returncode == 1
    assert re.search(r"weights / stage: .*(safetensors|10\.231\.)", said), said
    assert fleet.lab.ssh("node", f"test -d {model.published}").returncode == 1
    service.start(fleet.lab.layout)
    there = int(fleet.lab.ssh("node", f"du -sB1 {model.store} | cut -f1").stdout)
    assert there >= came - 8 * MIB, "what came is kept"
    finished(fleet, model, fleet.run(deploy=DEPLOY, overrides=settings(model, rate=0)))


def test_a_drive_that_fills_up_is_named_and_staging_goes_on_when_there_is_room(
    fleet: Fleet, model: Model, empty: None
) -> None:
    fleet.lab.ssh("node", "mount -t tmpfs -o size=1200m models /srv/models")
    first = fleet.start(overrides=settings(model, rate=60), deploy=DEPLOY)
    wait_for_bytes(fleet, model, 64 * MIB)
    fleet.lab.ssh("node", "head -c 1200M /dev/zero >/srv/models/filler")
    said, _ = first.communicate(timeout=180)
    assert first.returncode == 1
    assert re.search(r"weights / stage: .*(disk full|No space left|not enough space)", said, re.IGNORECASE), said
    refused = fleet.run(deploy=DEPLOY, overrides=settings(model, rate=0))
    assert refused.rc == 1 and re.search(r"not enough space: .* to fetch", refused.failure("node"))
    fleet.lab.ssh("node", "rm /srv/models/filler")
    finished(fleet, model, fleet.run(deploy=DEPLOY, overrides=settings(model, rate=0)))


def test_damage_is_found_named_and_mended_alone_and_old_models_go(
    fleet: Fleet, model: Model, empty: None, tmp_path: Path
) -> None:
    overrides = settings(model, rate=0)
    assert fleet.run(deploy=DEPLOY, overrides=overrides).rc == 0
    assert command(fleet, overrides, "verify").returncode == 0
    # in the middle of a file, with its times put back: only reading it can tell
    file = f"{model.published}/model-2.safetensors"
    flip = f"printf x | dd of={file} bs=1 seek={100 * MIB + 7} conv=notrunc"
    fleet.lab.ssh("node", f"touch -r {file} /run/times; {flip}; touch -r /run/times {file}")
    found = command(fleet, overrides, "verify", "--full")
    assert found.returncode == 1 and "model-2.safetensors" in found.stderr, found.stderr
    assert command(fleet, overrides, "verify", "--fast").returncode == 1, "what was found once stays known"
    assert command(fleet, overrides, "status").returncode == 1
    before = sent(fleet)
    mended = command(fleet, overrides, "repair")
    assert mended.returncode == 0, mended.stderr
    is_right(fleet, model)
    assert sent(fleet) - before <= 2 * 64 * MIB, "a piece, not the file"
    assert command(fleet, overrides, "verify", "--full").returncode == 0
    # another model takes its place: the one before is kept, the one before that goes
    other, third = (publish(fleet.lab, fleet.directory, "lab/small", d, shards=1, mib=8) for d in "bc")
    for each in (other, third):
        assert fleet.run(deploy=DEPLOY, overrides=settings(each, rate=0)).rc == 0
    last = settings(third, rate=0)
    dry = command(fleet, last, "gc", "--dry", "--json")
    assert json.loads(dry.stdout)["hosts"][0]["removed"] == [model.published]
    asked = command(fleet, last, "gc")
    assert asked.returncode == 1 and "--yes" in asked.stderr
    assert command(fleet, last, "gc", "--yes").returncode == 0
    assert fleet.lab.ssh("node", f"ls -d {model.published}").returncode != 0
    is_right(fleet, other)
    is_right(fleet, third)
