"""Checks, damage and repair: what is found, what is fetched again, what is never served."""

from __future__ import annotations

import json
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest

from metalserve.weights.agent import fill, full_check, marker, staging
from metalserve.weights.agent.marker import SAMPLE, digest_of_list, parse, plan_samples
from tests.weights.agent_host import BIG, FILES_OF_MODEL, SECOND, Host, content, tamper
from tests.weights.source import Source, serving

PIECE = 100_000


@pytest.fixture
def pieces() -> Iterator[int]:
    """Pieces as small as the files of tests."""
    with ExitStack() as patches:
        for module in (fill, full_check, marker, staging):
            patches.enter_context(patch.object(module, "PIECE", PIECE))
        yield PIECE


@pytest.fixture
def source() -> Iterator[Source]:
    with serving(Source(dict(FILES_OF_MODEL))) as served:
        yield served


@pytest.fixture
def host(tmp_path: Path, source: Source, pieces: int) -> Host:
    """A host with the model published."""
    host = Host(tmp_path, source.files, source.url)
    done = host.stage()
    assert done.returncode == 0, done.stderr
    source.requests.clear()
    return host


def stray(directory: Path, make: Callable[[Path], object]) -> None:
    directory.chmod(0o755)
    make(directory / "extra.safetensors")
    directory.chmod(0o555)


def rewrite(path: Path, body: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(body)


@pytest.mark.parametrize(
    ("damage", "words", "fetched"),
    [
        (lambda d: rewrite(d / BIG, content(700_001, 9)), "was changed after its bytes were proved", 1),
        (lambda d: (d / "config.json").unlink(), "is missing", 1),
        (lambda d: stray(d, lambda p: p.write_bytes(b"x")), "is not in the manifest", 0),
        (lambda d: stray(d, lambda p: p.symlink_to("/etc/passwd")), "is not in the manifest", 0),
        (lambda d: stray(d, os.mkfifo), "is not in the manifest", 0),
        (lambda d: rewrite(d / BIG, FILES_OF_MODEL[BIG][:250_000]), "has 250000 bytes instead of 700001", 1),
        (lambda d: rewrite(d / BIG, FILES_OF_MODEL[BIG] + b"more"), "has 700005 bytes instead of 700001", 0),
        (lambda d: (d / ".metalserve-manifest").unlink(), "has no marker of metalserve", 0),
        (lambda d: rewrite(d / ".metalserve-manifest", b'{"format": 2, "files'), "marker cannot be read", 0),
    ],
)
def test_damage_is_seen_and_mended_without_fetching_the_rest(
    host: Host, source: Source, damage: Callable[[Path], object], words: str, fetched: int
) -> None:
    damage(host.published)
    for kind in ("sizes", "fast"):
        seen = host.check(kind)
        assert seen.returncode == 3
        assert words.replace("marker cannot be read", "cannot be read") in seen.stderr
    done = host.stage()
    assert done.returncode == 0, done.stderr
    assert "withdrawn until it is mended" in done.stdout
    assert host.right()
    assert host.check("fast").returncode == 0
    assert len({path for path, _ in source.requests}) == fetched


def test_a_file_cut_short_goes_on_where_it_ends(host: Host, source: Source) -> None:
    rewrite(host.published / BIG, FILES_OF_MODEL[BIG][:250_000])
    assert host.stage().returncode == 0
    assert source.requests == [(BIG, 250_000)]
    assert host.right()


def test_one_wrong_piece_is_fetched_alone(host: Host, source: Source) -> None:
    tamper(host.published / BIG, 3 * PIECE + 17)
    before = source.sent
    found = host.check("full")
    assert found.returncode == 3
    assert f"{BIG}: SHA-256 is not that of the manifest: bytes 300000 to 400000 changed" in found.stderr
    done = host.run("repair", host.config)
    assert done.returncode == 0, done.stderr
    assert f"{BIG}: bytes 300000 to 400000 are not what was proved; fetched again" in done.stdout
    assert source.requests == [(BIG, 300_000)]
    assert source.sent - before == PIECE
    assert host.right()
    assert host.check("full").returncode == 0
    told = host.progress()
    assert (told["bytes_done"], told["bytes_from_source"]) == (host.job.total, PIECE)


@pytest.mark.parametrize("at", [0, PIECE - 1, PIECE, 699_999, 700_000])
def test_the_first_and_the_last_piece_too(host: Host, source: Source, at: int) -> None:
    tamper(host.published / BIG, at)
    tamper(host.published / BIG, 350_000)
    assert host.run("repair", host.config).returncode == 0
    assert source.requests == sorted([(BIG, at // PIECE * PIECE), (BIG, 300_000)])
    assert host.right()


def test_a_corrupt_piece_on_the_way_is_fetched_again(host: Host, source: Source) -> None:
    tamper(host.published / SECOND, 250_000)
    source.corrupt[SECOND] = 1  # the source flips the byte in the middle: outside this piece
    rewrite(host.published / BIG, b"")
    source.corrupt[BIG] = 2
    assert host.stage().returncode == 0
    firsts = [first for path, first in source.requests if path == BIG]
    assert firsts[:3] == [0, 300_000, 300_000]  # wrong, wrong, right; then what had not come yet
    assert len(firsts) <= 4
    assert host.right()


def test_a_source_with_a_wrong_piece_is_given_up(host: Host, source: Source) -> None:
    rewrite(host.published / BIG, b"")
    source.corrupt[BIG] = 99
    done = host.stage()
    assert done.returncode == 1
    assert f"{BIG}: the source gives wrong bytes" in done.stderr
    assert not host.published.exists()
    source.corrupt[BIG] = 0
    assert host.stage().returncode == 0
    assert host.right()


def test_an_engine_keeps_the_bytes_it_has_mapped(host: Host) -> None:
    with (host.published / BIG).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        tamper(host.published / BIG, 3 * PIECE)
        wrong = bytes(mapped)
        inode = os.fstat(file.fileno()).st_ino
        assert host.run("repair", host.config).returncode == 0
        assert host.right()
        assert (host.published / BIG).stat().st_ino != inode
        assert bytes(mapped) == wrong  # nobody wrote below the engine's feet


def test_repair_of_what_is_right_changes_nothing(host: Host, source: Source) -> None:
    before = host.published.stat().st_ino
    assert host.json("repair", host.config)["changed"] is False
    assert host.published.stat().st_ino == before
    assert source.requests == []


def test_only_what_is_wrong_is_read_twice_by_a_repair(host: Host) -> None:
    tamper(host.published / SECOND, 5)
    assert host.run("repair", host.config).returncode == 0
    assert host.progress()["files_done"] == len(host.files)
    assert host.right()


def test_a_tampered_byte_with_its_time_restored_is_found_by_the_fast_check(host: Host) -> None:
    tamper(host.published / BIG, 350_000)
    assert host.check("sizes").returncode == 0
    fast = host.check("fast")
    assert fast.returncode == 3
    assert "bytes are not those that were proved" in fast.stderr
    assert host.check("sizes").returncode == 3  # it is marked now
    assert host.state() == "damaged"
    assert host.run("seed", host.config).returncode == 3
    assert host.run("repair", host.config).returncode == 0
    assert host.check("sizes").returncode == 0


def test_the_samples_find_what_no_time_tells(host: Host) -> None:
    # A drive that gives other bytes changes no time of the inode: here the marker is told the times of afterwards.
    path = host.published / ".metalserve-manifest"
    tamper(host.published / BIG, 700_000)
    data = json.loads(path.read_text())
    for row in data["files"]:
        row["ctime_ns"] = (host.published / row["path"]).stat().st_ctime_ns
    rewrite(path, json.dumps(data).encode())
    report = host.json("check", "--fast", host.config)
    assert report["reread"] == []
    assert (report["state"], list(report["problems"])) == ("damaged", [BIG])


def test_a_touched_file_is_right_again_after_a_full_check(host: Host, source: Source) -> None:
    (host.published / BIG).chmod(0o644)
    report = host.json("check", "--fast", host.config)
    assert (report["state"], report["reread"]) == ("intact", [BIG])
    os.utime(host.published / BIG)
    assert host.check("fast").returncode == 3
    assert host.check("full").returncode == 0
    report = host.json("check", "--fast", host.config)
    assert (report["state"], report["reread"]) == ("intact", [])
    assert source.requests == []


def test_the_outcome_of_a_full_check_is_kept_in_the_store(host: Host) -> None:
    assert host.json("status", host.config)["last_full_check"] is None
    report = host.json("check", "--full", host.config)
    kept = host.json("status", host.config)["last_full_check"]
    assert (kept["state"], kept["bytes_read"]) == ("intact", host.job.total)
    assert report["seconds"] > 0
    assert abs(kept["at"] - time.time()) < 60
    tamper(host.published / BIG, 0)
    host.check("full")
    kept = host.json("status", host.config)["last_full_check"]
    assert (kept["state"], list(kept["problems"])) == ("damaged", [BIG])


def test_a_time_in_the_future_is_as_good_as_any(tmp_path: Path, source: Source) -> None:
    host = Host(tmp_path, source.files, source.url)
    with patch("time.time", return_value=4e9):
        assert host.stage().returncode == 0
    assert host.check("fast").returncode == 0
    later = time.time() + 1e8
    os.utime(host.published / BIG, (later, later))
    assert host.check("full").returncode == 0
    assert host.check("fast").returncode == 0
    with patch("time.time", return_value=1.0):
        assert "intact" in host.stage().stdout
        tamper(host.published / BIG, 1)
        assert host.run("repair", host.config).returncode == 0
    assert host.right()


def short_marker(host: Host) -> None:
    """Give the published directory the marker that the staging script of before wrote."""
    rows = []
    for path in sorted(p for p in host.published.rglob("*") if p.is_file() and p.name != ".metalserve-manifest"):
        state = path.stat()
        stamp = f"{state.st_mtime_ns // 10**9}.{state.st_mtime_ns % 10**9:09d}0"
        rows.append(f"{state.st_size}\t{stamp}\t{path.relative_to(host.published)}\n")
    head = f"metalserve-manifest 1\nlist {digest_of_list(host.job.files)}\n"
    rewrite(host.published / ".metalserve-manifest", (head + "".join(rows)).encode())


def test_what_the_script_of_before_published_is_taken_over(host: Host, source: Source) -> None:
    short_marker(host)
    for kind in ("sizes", "fast"):
        assert host.check(kind).returncode == 0
    assert "intact" in host.stage().stdout
    assert host.check("full").returncode == 0
    assert parse((host.published / ".metalserve-manifest").read_text()).format == 2
    assert host.json("check", "--fast", host.config)["bytes_read"] > 0
    assert source.requests == []


def test_what_the_script_of_before_began_is_gone_on_with(tmp_path: Path, source: Source) -> None:
    host = Host(tmp_path, source.files, source.url)
    host.partial.mkdir(parents=True)
    (host.partial / "config.json").write_bytes(FILES_OF_MODEL["config.json"])
    (host.partial / f"{BIG}.ms-part").write_bytes(FILES_OF_MODEL[BIG][:123_456])
    (host.partial / f"{BIG}.ms-part.curl").write_bytes(b"http=200")
    assert host.stage().returncode == 0
    assert host.right()
    assert (BIG, 123_456) in source.requests
    assert "config.json" not in {path for path, _ in source.requests}


def test_samples_cover_small_files_and_both_ends_of_large_ones() -> None:
    sizes = [0, 1, SAMPLE, SAMPLE + 1, 5 << 30, 1 << 20]
    plan = plan_samples(sizes)
    assert plan[:4] == [(), (0,), (0,), (0, SAMPLE)]
    for size, samples in zip(sizes[4:], plan[4:], strict=True):
        assert (samples[0], samples[-1]) == (0, (size - 1) // SAMPLE * SAMPLE)
        assert len(set(samples)) == len(samples)
    assert sum(map(len, plan)) <= 400
    assert plan_samples(sizes) != plan  # nobody can know which


def test_thirty_shards_are_checked_fast(tmp_path: Path) -> None:
    files = {f"model-{n:05}-of-00030.safetensors": content(1 << 20, n) for n in range(30)}
    with serving(Source(files)) as source:
        host = Host(tmp_path, files, source.url, jobs=4)
        assert host.stage().returncode == 0
        report = host.json("check", "--fast", host.config)
    assert report["bytes_read"] <= 400 * SAMPLE
    assert report["seconds"] < 5  # some 30 ms on a calm machine; a busy one must not fail here
