"""Staging on a host of its own, with real bytes: what is cut off at controller, host or server goes on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
NODE = "node"
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
    """A quarter of a gigabyte: what is to be cut off is slowed down by `staging.rate_mib_s` instead."""
    return publish(fleet.lab, fleet.directory, "lab/large", "a", shards=4, mib=64)


@pytest.fixture
def empty(fleet: Fleet) -> Iterator[None]:
    """Nothing is staged, and the file service is there, before and after each test."""

    def clear() -> None:
        service.start(fleet.lab.layout)
        fleet.lab.ssh(NODE, "systemctl stop 'metalserve-weights*@*'; umount /srv/models; rm -rf /srv/models/*")
        fleet.lab.ssh(NODE, "rm -rf /srv/models/.references /run/metalserve/weights")

    clear()
    yield
    clear()


@contextmanager
def begun(fleet: Fleet, overrides: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """A run that is at work; what is left of it in the end is killed."""
    with tempfile.TemporaryFile() as out:
        run = subprocess.Popen(
            fleet.command(deploy=DEPLOY), cwd=ROOT, env=fleet.environment(overrides),
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield run
        finally:
            run.kill()
            run.wait()


def settings(model: Model, *, rate: float = 8, **more: Any) -> dict[str, Any]:
    told = {"storage": {"device": "none"}, "staging": {"rate_mib_s": rate, **more.pop("staging", {})}}
    return {NODE: {**told, **model.settings(**more)}}


def progress(fleet: Fleet, model: Model) -> dict[str, Any]:
    said = fleet.lab.ssh(NODE, f"cat /run/metalserve/weights/{model.key}.json").stdout
    found: dict[str, Any] = json.loads(said) if said else {}
    return found


def wait_for_bytes(fleet: Fleet, model: Model, count: int, timeout_s: float = 300) -> int:
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
    there = fleet.lab.ssh(NODE, f"cd {model.published} && sha256sum *").stdout
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


def finished(fleet: Fleet, model: Model, run: Ran, overrides: dict[str, Any]) -> None:
    assert run.rc == 0, run.out
    assert run.statuses == {NODE: "changed"}
    is_right(fleet, model)
    again = fleet.run(deploy=DEPLOY, overrides=overrides)
    assert again.statuses == {NODE: "unchanged"} and again.report["hosts"][NODE]["sessions"] == 1, again.out


def failure_of(fleet: Fleet, run: subprocess.Popen[bytes], timeout_s: float = 300) -> str:
    """Wait for a run that fails, and return its failure in words."""
    assert run.wait(timeout=timeout_s) == 1
    report = json.loads((fleet.directory / "report.json").read_text())
    failure = report["hosts"][NODE]["failure"]
    return f"{failure['role']} / {failure['stage']}: {failure['what']} -> {failure['remedy']}"


def test_a_killed_controller_ends_nothing_and_the_next_follows(
    fleet: Fleet, model: Model, empty: None, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    overrides = settings(model, rate=2.5, hf_token={"command": ["cat", str(tmp_path / "token")]})
    with begun(fleet, overrides):
        came = wait_for_bytes(fleet, model, 8 * MIB)
    secret = f"/run/metalserve/weights/{model.key}.secret"
    assert fleet.lab.ssh(NODE, f"stat -c '%a %U' {secret}").stdout == "600 root\n"
    places = "/etc /run/systemd /var/log /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
    holders = fleet.lab.ssh(NODE, f"grep -rlF -f /dev/stdin {places} 2>/dev/null; true", stdin=f"{TOKEN}\n").stdout
    assert holders == "", holders
    began = progress(fleet, model)["started_at"]
    later = wait_for_bytes(fleet, model, came + 4 * MIB)
    looked = command(fleet, overrides, "status", "--json")
    (told,) = json.loads(looked.stdout)["hosts"][0]["models"]
    assert (looked.returncode, told["state"], told["running"]) == (1, "partial", ["stage"])
    assert told["progress"]["bytes_done"] >= later and told["progress"]["rate_bytes_s"] > 0
    run = fleet.run(deploy=DEPLOY, overrides=overrides)
    assert "follow the staging of lab/large" in run.out, run.out
    assert re.search(r"fetching: 0\.\d\d of 0\.25 GiB, \d\.\d MiB/s, about \d+ (s|min) left", run.out), run.out
    assert progress(fleet, model)["started_at"] == began, "the same unit, to its end"
    assert fleet.lab.ssh(NODE, f"test -e {secret}").returncode == 1, "gone with the unit, without the controller"
    finished(fleet, model, run, overrides)
    assert command(fleet, overrides, "status").returncode == 0


def test_a_host_that_lost_its_power_goes_on_from_what_it_had(fleet: Fleet, model: Model, empty: None) -> None:
    before = sent(fleet)
    with begun(fleet, settings(model)) as first:
        came = wait_for_bytes(fleet, model, 100 * MIB)
        fleet.lab.stop(NODE, grace_s=0)
        assert "run again" in failure_of(fleet, first)
    fleet.lab.start(NODE)
    quick = settings(model, rate=0)
    finished(fleet, model, fleet.run(deploy=DEPLOY, overrides=quick), quick)
    # an answer is logged with its whole length, or not at all when it was cut off
    assert sent(fleet) - before <= model.total - came + 4 * 64 * MIB


def test_a_server_that_goes_away_for_a_while_is_waited_for(fleet: Fleet, model: Model, empty: None) -> None:
    with begun(fleet, settings(model)) as first:
        wait_for_bytes(fleet, model, 32 * MIB)
        service.stop(fleet.lab.layout)
        time.sleep(3)
        service.start(fleet.lab.layout)
        assert first.wait(timeout=300) == 0
    is_right(fleet, model)


def test_a_server_that_stays_away_is_named_and_what_came_is_kept(fleet: Fleet, model: Model, empty: None) -> None:
    with begun(fleet, settings(model)) as first:
        came = wait_for_bytes(fleet, model, 32 * MIB)
        service.stop(fleet.lab.layout)
        failure = failure_of(fleet, first, 500)
    assert re.search(r"weights / stage: .*safetensors.* -> ", failure), failure
    assert fleet.lab.ssh(NODE, f"test -d {model.published}").returncode == 1
    service.start(fleet.lab.layout)
    there = int(fleet.lab.ssh(NODE, f"du -sB1 {model.store} | cut -f1").stdout)
    assert there >= came - 8 * MIB
    quick = settings(model, rate=0)
    finished(fleet, model, fleet.run(deploy=DEPLOY, overrides=quick), quick)


def test_a_drive_that_fills_up_is_named_and_staging_goes_on_when_there_is_room(
    fleet: Fleet, model: Model, empty: None
) -> None:
    fleet.lab.ssh(NODE, "mkdir -p /srv/models; mount -t tmpfs -o size=300m models /srv/models")
    with begun(fleet, settings(model)) as first:
        wait_for_bytes(fleet, model, 16 * MIB)
        fleet.lab.ssh(NODE, "head -c 300M /dev/zero >/srv/models/filler")
        failure = failure_of(fleet, first)
    assert re.search(r"weights / stage: .*(disk|space|room)", failure, re.IGNORECASE), failure
    quick = settings(model, rate=0)
    refused = fleet.run(deploy=DEPLOY, overrides=quick)
    assert refused.rc == 1 and re.search(r"not enough space: .* to fetch", refused.failure(NODE)), refused.out
    fleet.lab.ssh(NODE, "rm /srv/models/filler")
    finished(fleet, model, fleet.run(deploy=DEPLOY, overrides=quick), quick)


def test_damage_is_found_named_and_mended_alone_and_old_models_go(
    fleet: Fleet, model: Model, empty: None, tmp_path: Path
) -> None:
    overrides = settings(model, rate=0)
    staged = fleet.run(deploy=DEPLOY, overrides=overrides)
    assert staged.rc == 0, staged.out
    assert command(fleet, overrides, "verify").returncode == 0
    # in the middle of a file, with its times put back: only reading it can tell
    file = f"{model.published}/model-2.safetensors"
    flip = f"printf x | dd of={file} bs=1 seek={20 * MIB + 7} conv=notrunc"
    fleet.lab.ssh(NODE, f"touch -r {file} /run/times; {flip}; touch -r /run/times {file}")
    found = command(fleet, overrides, "verify", "--full")
    assert found.returncode == 1 and "model-2.safetensors" in found.stderr, found.stderr
    assert command(fleet, overrides, "verify", "--fast").returncode == 1, "what was found once stays known"
    assert command(fleet, overrides, "status").returncode == 1
    before = sent(fleet)
    mended = command(fleet, overrides, "repair")
    assert mended.returncode == 0, mended.stderr
    is_right(fleet, model)
    assert sent(fleet) - before <= 64 * MIB, "a piece, not the file"
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
    assert fleet.lab.ssh(NODE, f"ls -d {model.published}").returncode != 0
    is_right(fleet, other)
    is_right(fleet, third)
