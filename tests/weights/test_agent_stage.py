"""Staging by the agent, against a real HTTP server that misbehaves."""

from __future__ import annotations

import ast
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.weights.agent_host import AGENT, BIG, FILES_OF_MODEL, SECOND, Host, content
from tests.weights.source import Source, serving

Change = Callable[[dict[str, bytes]], object]


def test_it_needs_python_3_9_and_the_standard_library_alone() -> None:
    for path in AGENT.glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        absolute = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0]
        assert not [node.module for node in absolute if (node.module or "").startswith("metalserve")], path


def test_it_runs_by_itself(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL))) as source:
        host = Host(tmp_path, source.files, source.url)
        done = host.run_alone("stage", host.config)
        assert done.returncode == 0, done.stderr
        assert host.right()
        assert json.loads(host.run_alone("check", "--full", host.config, "--json").stdout)["state"] == "intact"


def test_stages_and_publishes_then_needs_nothing(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL))) as source:
        host = Host(tmp_path, source.files, source.url)
        assert host.state() == "absent"
        assert host.check().returncode == 3
        done = host.stage()
        assert done.returncode == 0, done.stderr
        assert host.right()
        assert host.state() == "published"
        for kind in ("sizes", "fast", "full"):
            assert host.check(kind).returncode == 0
        asked = len(source.requests)
        assert "intact" in host.stage().stdout
        assert host.json("stage", host.config)["changed"] is False
        assert len(source.requests) == asked
        assert not host.partial.exists()
        assert {oct(p.stat().st_mode & 0o777) for p in host.published.rglob("*")} == {"0o444", "0o555"}
        told = host.progress()
        assert (told["phase"], told["bytes_done"], told["error"]) == ("done", host.job.total, None)


def test_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL), cut={BIG: [200_000, 100_000]})) as source:
        host = Host(tmp_path, source.files, source.url)
        assert host.stage().returncode == 0
        assert [first for path, first in source.requests if path == BIG] == [0, 200_000, 300_000]
        assert host.right()
        told = host.progress()
        assert told["bytes_from_source"] == told["bytes_done"] == told["bytes_total"]
        assert told["files_done"] == told["files_total"]


def test_a_later_run_goes_on_at_the_byte(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL), cut={BIG: [200_001, 0, 0]})) as source:
        host = Host(tmp_path, source.files, source.url)
        assert host.stage().returncode == 1
        assert host.state() == "partial"
        assert host.progress()["phase"] == "failed"
        source.requests.clear()
        assert host.stage().returncode == 0
        assert (BIG, 200_001) in source.requests
        assert host.right()
        assert host.progress()["bytes_from_source"] == host.job.total - 200_001 - 300_000 - 41


@pytest.mark.parametrize("chunked", [False, True])
def test_a_server_without_ranges_is_asked_from_the_start(tmp_path: Path, chunked: bool) -> None:
    with serving(Source(dict(FILES_OF_MODEL), cut={BIG: [200_000]}, ranges=False, chunked=chunked)) as source:
        host = Host(tmp_path, source.files, source.url)
        done = host.stage()
        assert done.returncode == 0, done.stderr
        assert host.right()


def test_one_corrupt_file_is_fetched_again_alone(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL), corrupt={SECOND: 1})) as source:
        host = Host(tmp_path, source.files, source.url)
        done = host.stage()
        assert done.returncode == 0
        assert f"{SECOND}: SHA-256" in done.stdout
        assert host.right()
        assert [p for p, _ in source.requests].count(SECOND) == 2
        assert len(source.requests) == len(source.files)  # the empty file is not asked for


def test_wrong_bytes_at_the_source_are_never_published(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL), corrupt={"config.json": 99})) as source:
        host = Host(tmp_path, source.files, source.url)
        done = host.stage()
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("config.json: the source gives wrong bytes")
        assert len([p for p, _ in source.requests if p == "config.json"]) == 3
        assert not host.published.exists()
        assert host.state() == "partial"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: files.pop("config.json"), "does not exist (HTTP 404)"),
        (lambda files: files.update({"config.json": b"{}"}), "has 2 bytes at the source instead of 39"),
        (lambda files: files.update({"config.json": b"x" * 500}), "has 500 bytes at the source instead of 39"),
    ],
)
def test_a_source_that_is_not_the_manifest(tmp_path: Path, change: Change, words: str) -> None:
    with serving(Source(dict(FILES_OF_MODEL))) as source:
        host = Host(tmp_path, source.files, source.url)
        change(source.files)
        done = host.stage()
        assert done.returncode == 1
        assert words in done.stderr.splitlines()[-1]
        assert done.stderr.startswith("config.json: ")
        assert not host.published.exists()
        # one file that cannot be had does not keep the others from coming
        assert (host.partial / BIG).read_bytes() == FILES_OF_MODEL[BIG]


def test_more_bytes_than_the_manifest_says_without_a_length(tmp_path: Path) -> None:
    with serving(Source({"a.bin": content(200_000)}, chunked=True)) as source:
        host = Host(tmp_path, {"a.bin": source.files["a.bin"][:150_000]}, source.url)
        done = host.stage()
        assert done.returncode == 1
        assert "a.bin: the source has more than the 150000 bytes" in done.stderr


def test_gated_source(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL), token="hf_secret")) as source:
        secret = tmp_path / "auth"
        host = Host(tmp_path, source.files, source.url, authorisation=str(secret))
        refused = host.stage()
        assert refused.returncode == 1
        assert "set model.hf_token" in refused.stderr.splitlines()[-1]
        assert len(source.authorised) <= 2  # no other file is asked for
        secret.write_text("hf_secret\n")
        allowed = host.stage()
        assert allowed.returncode == 0
        assert "hf_secret" not in allowed.stdout + allowed.stderr + refused.stdout + refused.stderr


def test_the_secret_does_not_follow_to_another_host(tmp_path: Path) -> None:
    secret = tmp_path / "auth"
    secret.write_text("hf_secret\n")
    with serving(Source(dict(FILES_OF_MODEL))) as storage, serving(Source({}, redirect=storage.url)) as hub:
        host = Host(tmp_path, storage.files, hub.url, authorisation=str(secret))
        assert host.stage().returncode == 0
        assert host.right()
        assert set(hub.authorised) == {"Bearer hf_secret"}
        assert set(storage.authorised) == {None}


def test_a_source_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL), status={BIG: [503], "config.json": [429]})) as source:
        host = Host(tmp_path, source.files, source.url)
        assert host.stage().returncode == 0
        assert host.right()


def test_a_stream_that_stands_still_is_cut_and_goes_on(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL), stall={BIG: 1})) as source:
        host = Host(tmp_path, source.files, source.url)
        began = time.monotonic()
        done = host.stage(MS_STALL_S="0.3")
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - began < 10
        assert host.right()
        firsts = [first for path, first in source.requests if path == BIG]
        assert len(firsts) == 2
        assert firsts[1] > 0


def test_source_gone(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL))) as source:
        host = Host(tmp_path, source.files, source.url)
    done = host.stage()
    assert done.returncode == 1
    assert "no byte came in 2 tries" in done.stderr.splitlines()[-1]
    assert len(done.stderr.splitlines()) == 1


def test_the_server_dies_and_comes_back(tmp_path: Path) -> None:
    source = Source(dict(FILES_OF_MODEL), slow_s=0.1)
    with serving(source):
        host = Host(tmp_path, source.files, source.url)
        run = host.start("stage", host.config, MS_TRIES="50", MS_BACKOFF_S="0.02")
        while source.sent < 200_000:
            time.sleep(0.01)
    port = int(source.url.rsplit(":", 1)[1])
    time.sleep(0.3)
    source.slow_s = 0
    with serving(source, port):
        _, err = run.communicate(timeout=30)
    assert run.returncode == 0, err
    assert host.right()


def test_no_space_is_told_before_the_first_byte(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL))) as source:
        host = Host(tmp_path, source.files, source.url, reserve_bytes=1 << 60)
        done = host.stage()
        assert done.returncode == 1
        assert "not enough space" in done.stderr
        assert source.requests == []


def test_two_runs_at_once(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL), slow_s=0.15)) as source:
        host = Host(tmp_path, source.files, source.url)
        first = host.start("stage", host.config)
        while not source.requests:
            time.sleep(0.01)
        second = host.stage()
        first.communicate(timeout=30)
        assert (first.returncode, second.returncode) == (0, 0)
        assert f"another run (stage, pid {first.pid}, for " in second.stdout
        assert "intact" in second.stdout
        assert len(source.requests) == len(source.files) - 1


def test_told_to_stop_it_keeps_what_came(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL), slow_s=0.2)) as source:
        host = Host(tmp_path, source.files, source.url)
        run = host.start("stage", host.config)
        while source.sent < 300_000:
            time.sleep(0.01)
        run.terminate()
        _, err = run.communicate(timeout=10)
        assert run.returncode == -signal.SIGTERM
        assert "told to stop; what came is kept" in err
        assert host.progress()["phase"] == "stopped"
        assert sum(p.stat().st_size for p in host.partial.rglob("*") if p.is_file()) > 65_536
        source.slow_s = 0
        assert host.stage().returncode == 0
        assert host.right()


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\b", ".metalserve-manifest", "a//b", "."])
def test_names_that_escape_are_refused(tmp_path: Path, name: str) -> None:
    with serving(Source(dict(FILES_OF_MODEL))) as source:
        host = Host(tmp_path, {**source.files, name: b"x"}, source.url)
        done = host.stage()
        assert done.returncode == 1
        assert ": refused, " in done.stderr
        assert source.requests == []
        assert not host.mount.exists()


def test_links_in_the_partial_directory_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with serving(Source(dict(FILES_OF_MODEL))) as source:
        host = Host(tmp_path, source.files, source.url)
        host.partial.mkdir(parents=True)
        (host.partial / "sub dir").symlink_to(outside)
        (host.partial / "config.json").symlink_to(outside / "config.json")
        (host.partial / BIG).mkdir()
        (host.partial / "stray.safetensors").write_bytes(b"x")
        (host.partial / "empty dir").mkdir()
        assert host.stage().returncode == 0
        assert host.right()
        assert list(outside.iterdir()) == []
        assert not (host.published / "empty dir").exists()


def test_a_thousand_small_files(tmp_path: Path) -> None:
    files = {f"dir-{n % 7}/file-{n}.json": content(n % 300, n) for n in range(1000)}
    with serving(Source(files)) as source:
        host = Host(tmp_path, files, source.url, jobs=4)
        done = host.stage()
        assert done.returncode == 0, done.stderr
        assert host.right()
        assert host.check("fast").returncode == 0


def test_speed_limit(tmp_path: Path) -> None:
    with serving(Source({"a.bin": content(400_000), "b.bin": content(400_000, 1)})) as source:
        host = Host(tmp_path, source.files, source.url, rate_bytes_s=800_000)
        began = time.monotonic()
        assert host.stage().returncode == 0
        assert time.monotonic() - began > 0.8
        assert host.right()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a file system of its own")
def test_disk_full_in_the_middle(tmp_path: Path, small_disk: Path) -> None:
    with serving(Source({"a.bin": content(3 << 20), "b.bin": content(3 << 20, 1)})) as source:
        host = Host(tmp_path, source.files, source.url, store=str(small_disk / "org--model"))
        ballast = small_disk / "ballast"
        source.slow_s = 0.02
        run = host.start("stage", host.config)
        while source.sent < 1 << 20:
            time.sleep(0.01)
        ballast.write_bytes(bytes(3 << 20))
        source.slow_s = 0
        _, err = run.communicate(timeout=30)
        assert run.returncode == 1
        assert "disk full: " in err
        assert "run again; staging goes on where it stopped" in err
        ballast.unlink()
        asked = len(source.requests)
        assert host.stage().returncode == 0
        assert any(first > 0 for _, first in source.requests[asked:])
        assert host.right()
