"""What an observation tells of the store: by the agent where there is one, else by the short marker of before."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from metalserve.weights.agent.marker import digest_of_list
from metalserve.weights.manifest import Manifest
from metalserve.weights.store import AGENT_LIBRARY, ModelPlace, inspect, inspect_command, list_digest
from tests.weights.agent_host import BIG, FILES_OF_MODEL, REVISION, Host, tamper
from tests.weights.source import Source, serving


def manifest_of(files: dict[str, bytes]) -> Manifest:
    rows = [{"path": p, "size": len(b), "sha256": hashlib.sha256(b).hexdigest()} for p, b in files.items()]
    return Manifest.model_validate({"repository": "org/model", "revision": REVISION, "files": rows})


def observed(host: Host, *, agent: bool = True) -> str:
    command = inspect_command(ModelPlace(host.job.store, REVISION))
    library = str(host.lib) if agent else "/nonexistent"
    shell = subprocess.run(
        ["sh", "-c", command.replace(AGENT_LIBRARY, library)], capture_output=True, text=True, check=True
    )
    assert len(shell.stdout) < 4096
    return shell.stdout


def test_both_sides_agree_on_the_digest_of_a_list(tmp_path: Path) -> None:
    host = Host(tmp_path, FILES_OF_MODEL, "http://unused")
    assert digest_of_list(host.job.files) == list_digest(manifest_of(FILES_OF_MODEL))


def test_the_agents_answer(tmp_path: Path) -> None:
    manifest = manifest_of(FILES_OF_MODEL)
    with serving(Source(dict(FILES_OF_MODEL), status={"config.json": [404]})) as source:
        host = Host(tmp_path, source.files, source.url)
        assert inspect(observed(host), manifest).state == "absent"
        assert host.stage().returncode == 1
        partial = inspect(observed(host), manifest)
        assert (partial.state, partial.bytes_there) == ("partial", host.job.total - len(FILES_OF_MODEL["config.json"]))
        assert host.stage().returncode == 0
    there = inspect(observed(host), manifest)
    assert (there.state, there.bytes_there) == ("published", host.job.total)
    other = manifest_of({**FILES_OF_MODEL, "more.json": b"{}"})
    assert inspect(observed(host), other).what == "it was staged from another manifest"
    gone = inspect(observed(host, agent=False), manifest)
    assert (gone.state, gone.bytes_there) == ("changed", host.job.total)
    assert "an agent that is no longer on the host" in gone.what
    tamper(host.published / BIG, 5)
    assert inspect(observed(host), manifest).state == "published"  # sizes and times are as they were
    assert host.check("full").returncode == 3
    damaged = inspect(observed(host), manifest)
    assert damaged.state == "changed"
    assert damaged.what.startswith(f"damaged: {BIG}: SHA-256")


@pytest.mark.parametrize("text", ["@@agent\n", "@@agent\n{}\n", "@@agent\n[]\n", '@@agent\n{"format": 2}\n'])
def test_an_answer_that_cannot_be_read_is_no_model(text: str) -> None:
    assert inspect(text, manifest_of(FILES_OF_MODEL)).state == "changed"


def test_an_answer_of_another_version_is_no_model() -> None:
    manifest = manifest_of(FILES_OF_MODEL)
    line = '{"format": 9, "state": "published", "bytes_there": 5, "what": "", "list": "%s"}'
    state = inspect("@@agent\n" + line % list_digest(manifest), manifest)
    assert (state.state, state.what) == ("changed", "the agent on the host is of another version")
