"""The staging script itself, run by the shell against a real HTTP server that misbehaves."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metalserve.paths import FILES
from metalserve.settings import ModelSettings
from metalserve.weights.manifest import Manifest
from metalserve.weights.store import ModelPlace, file_list, inspect, inspect_command, place_of, source_url
from tests.weights.source import Source, serving

SCRIPT = FILES / "weights" / "stage.sh"
REVISION = "0123456789abcdef0123456789abcdef01234567"

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("curl", "flock", "sha256sum"))), reason="needs curl, flock and sha256sum"
)


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


FILES_OF_MODEL = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "model-00001-of-00002.safetensors": content(700_001, 1),
    "model-00002-of-00002.safetensors": content(300_000, 2),
    "sub dir/with space & sign#.json": b"{}",
    "empty.txt": b"",
}


def manifest_of(files: dict[str, bytes]) -> Manifest:
    return Manifest.model_validate(
        {
            "repository": "org/model",
            "revision": REVISION,
            "files": [{"path": p, "size": len(b), "sha256": hashlib.sha256(b).hexdigest()} for p, b in files.items()],
        }
    )


class Host:
    """A directory that plays the host's store."""

    def __init__(self, root: Path, source: Source, manifest: Manifest | None = None) -> None:
        self.manifest = manifest or manifest_of(source.files)
        model = ModelSettings(name="org/model", revision=REVISION, manifest="unused.yaml", source=source.url)
        self.place: ModelPlace = place_of(str(root), model)
        self.listing = root / "list.tsv"
        self.listing.write_text(file_list(self.manifest))
        self.environment = {
            "PATH": os.environ["PATH"],
            "MS_STORE": self.place.store,
            "MS_REVISION": REVISION,
            "MS_LIST": str(self.listing),
            "MS_SOURCE": source_url(model),
            "MS_RESERVE": "0",
            "MS_JOBS": "2",
            "MS_AUTH": "",
            "MS_TRIES": "2",
            "MS_PROGRESS_S": "1",
        }

    def stage(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(SCRIPT), *arguments],
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def state(self) -> str:
        told = subprocess.run(["sh", "-c", inspect_command(self.place)], capture_output=True, text=True)
        return inspect(told.stdout, self.manifest).state

    def right(self, files: dict[str, bytes]) -> bool:
        return all((Path(self.place.published) / p).read_bytes() == b for p, b in files.items())


def test_stages_and_publishes_then_needs_nothing(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL))) as source:
        host = Host(tmp_path, source)
        assert host.state() == "absent"
        done = host.stage()
        assert done.returncode == 0, done.stderr
        assert host.right(source.files)
        assert host.state() == "published"
        assert host.stage("--check").returncode == 0
        asked = len(source.requests)
        assert "intact" in host.stage().stdout
        assert len(source.requests) == asked
        assert not Path(host.place.partial).exists()
        assert sorted(p.name for p in Path(host.place.published).iterdir()) == sorted(
            [".metalserve-manifest", *{p.split("/")[0] for p in source.files}]
        )


def test_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    big = "model-00001-of-00002.safetensors"
    with serving(Source(dict(FILES_OF_MODEL), cut={big: [200_000, 100_000]})) as source:
        host = Host(tmp_path, source)
        assert host.stage().returncode == 0
        assert [first for path, first in source.requests if path == big] == [0, 200_000, 300_000]
        assert host.right(source.files)


def test_a_server_without_ranges_is_asked_from_the_start(tmp_path: Path) -> None:
    big = "model-00001-of-00002.safetensors"
    with serving(Source(dict(FILES_OF_MODEL), cut={big: [200_000]}, ranges=False)) as source:
        host = Host(tmp_path, source)
        done = host.stage()
        assert done.returncode == 0, done.stderr
        assert host.right(source.files)


def test_one_corrupt_file_is_fetched_again_alone(tmp_path: Path) -> None:
    big = "model-00002-of-00002.safetensors"
    with serving(Source(dict(FILES_OF_MODEL), corrupt={big: 1})) as source:
        host = Host(tmp_path, source)
        done = host.stage()
        assert done.returncode == 0
        assert f"{big}: SHA-256" in done.stdout
        assert host.right(source.files)
        assert sorted(p for p, _ in source.requests).count(big) == 2
        assert len(source.requests) == len(source.files)  # the empty file is not asked for


def test_wrong_bytes_at_the_source_are_never_published(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL), corrupt={"config.json": 99})) as source:
        host = Host(tmp_path, source)
        done = host.stage()
        assert done.returncode != 0
        assert done.stderr.splitlines()[-1].startswith("config.json: the source gives wrong bytes")
        assert not Path(host.place.published).exists()
        assert host.state() == "partial"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: files.pop("config.json"), "config.json: the source does not have it (HTTP 404)"),
        (lambda files: files.update({"config.json": b"{}"}), "config.json: the source has only"),
        (lambda files: files.update({"config.json": b"x" * 500}), "config.json: the source has more than the"),
    ],
)
def test_a_source_that_is_not_the_manifest(tmp_path: Path, change: object, words: str) -> None:
    with serving(Source(dict(FILES_OF_MODEL))) as source:
        host = Host(tmp_path, source)
        change(source.files)  # type: ignore[operator]
        done = host.stage()
        assert done.returncode != 0
        assert words in done.stderr.splitlines()[-1]
        assert not Path(host.place.published).exists()


def test_gated_source(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL), token="hf_secret")) as source:
        host = Host(tmp_path, source)
        refused = host.stage()
        assert refused.returncode != 0
        assert "set model.hf_token" in refused.stderr.splitlines()[-1]
        header = tmp_path / "auth"
        header.write_text("Authorization: Bearer hf_secret\n")
        allowed = host.stage(MS_AUTH=str(header))
        assert allowed.returncode == 0
        assert "hf_secret" not in allowed.stdout + allowed.stderr + refused.stdout + refused.stderr


def test_source_gone(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL))) as source:
        host = Host(tmp_path, source)
    done = host.stage()
    assert done.returncode != 0
    assert "no byte came in 2 tries" in done.stderr.splitlines()[-1]


def test_no_space_is_told_before_the_first_byte(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL))) as source:
        host = Host(tmp_path, source)
        done = host.stage(MS_RESERVE=str(1 << 60))
        assert done.returncode != 0
        assert done.stderr.startswith("not enough space on")
        assert source.requests == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: (d / "model-00001-of-00002.safetensors").write_bytes(content(700_001, 9)),
        lambda d: (d / "config.json").unlink(),
        lambda d: (d / "extra.safetensors").write_bytes(b"x"),
        lambda d: (d / "model-00001-of-00002.safetensors").write_bytes(b"short"),
        lambda d: (d / "extra.bin").symlink_to("/etc/passwd"),
        lambda d: (d / ".metalserve-manifest").unlink(),
    ],
)
def test_damage_is_seen_and_mended_without_fetching_the_rest(tmp_path: Path, damage: object) -> None:
    with serving(Source(dict(FILES_OF_MODEL))) as source:
        host = Host(tmp_path, source)
        host.stage()
        source.requests.clear()
        damage(Path(host.place.published))  # type: ignore[operator]
        assert host.state() == "changed"
        assert host.stage("--check").returncode != 0
        done = host.stage()
        assert done.returncode == 0, done.stderr
        assert host.state() == "published"
        assert host.right(source.files)
        assert len(source.requests) <= 1


def test_a_changed_byte_of_the_same_size_and_time_is_only_found_by_hashing(tmp_path: Path) -> None:
    # The fast check's limit, stated: it trusts sizes and times.
    with serving(Source(dict(FILES_OF_MODEL))) as source:
        host = Host(tmp_path, source)
        host.stage()
        path = Path(host.place.published) / "config.json"
        before = path.stat()
        path.write_bytes(b"X" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert host.state() == "published"


def test_two_runs_at_once(tmp_path: Path) -> None:
    with serving(Source(dict(FILES_OF_MODEL), slow_s=0.1)) as source:
        host = Host(tmp_path, source)
        first = subprocess.Popen(
            ["sh", str(SCRIPT)], env=host.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(0.4)
        second = host.stage()
        first.communicate(timeout=30)
        assert first.returncode == 0
        assert second.returncode == 0
        assert "another run stages this model" in second.stdout
        assert "intact" in second.stdout
        assert len(source.requests) == len(source.files) - 1


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(after=st.floats(0.05, 1.2), seed=st.integers(0, 1000))
def test_killed_at_any_moment_it_never_publishes_a_wrong_byte(tmp_path: Path, after: float, seed: int) -> None:
    root = tmp_path / f"{after}-{seed}"
    root.mkdir()
    with serving(Source(dict(FILES_OF_MODEL), slow_s=0.05)) as source:
        host = Host(root, source)
        run = subprocess.Popen(
            ["sh", str(SCRIPT)],
            env=host.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(after)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        if Path(host.place.published).exists():
            assert host.right(source.files)
        source.slow_s = 0
        done = host.stage()
        assert done.returncode == 0, done.stderr
        assert host.right(source.files)
        assert host.state() == "published"


def test_names_that_escape_are_refused_by_the_script_too(tmp_path: Path) -> None:
    with serving(Source({"../evil": b"x"})) as source:
        host = Host(tmp_path, source, manifest_of(FILES_OF_MODEL))
        digest = hashlib.sha256(b"x").hexdigest()
        host.listing.write_text(f"{digest}\t1\t../evil\t../evil\n")
        done = host.stage()
        assert done.returncode != 0
        assert "leads out of the model's directory" in done.stderr
        assert not (Path(host.place.store) / "evil").exists()
