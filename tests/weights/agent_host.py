"""A directory that plays the host's store, and the agent as it runs there: by itself, with the standard library."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from metalserve.paths import ROOT
from metalserve.weights.agent.__main__ import main
from metalserve.weights.agent.config import Job, SourceConfig, WantedFile
from metalserve.weights.agent.store import Store

REVISION = "0123456789abcdef0123456789abcdef01234567"
AGENT = ROOT / "metalserve" / "weights" / "agent"
TEXT = b'{"architectures": ["LlamaForCausalLM"]}'


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


FILES_OF_MODEL = {
    "config.json": TEXT,
    "model-00001-of-00002.safetensors": content(700_001, 1),
    "model-00002-of-00002.safetensors": content(300_000, 2),
    "sub dir/with space & sign#.json": b"{}",
    "empty.txt": b"",
}
BIG = "model-00001-of-00002.safetensors"
SECOND = "model-00002-of-00002.safetensors"


def wanted(files: Mapping[str, bytes]) -> tuple[WantedFile, ...]:
    return tuple(WantedFile(path, len(body), hashlib.sha256(body).hexdigest()) for path, body in files.items())


class Host:
    """One host with one model to have."""

    def __init__(self, root: Path, files: Mapping[str, bytes], url: str, **changes: Any) -> None:
        self.root = root
        self.mount = root / "models"
        self.files = dict(files)
        self.lib = root / "lib"
        if not self.lib.exists():
            self.lib.mkdir(parents=True)
            shutil.copytree(AGENT, self.lib / "msweights", ignore=shutil.ignore_patterns("__pycache__"))
        self.config = root / "etc" / "job.json"
        self.config.parent.mkdir(exist_ok=True)
        base = f"{url}/org/model/resolve/{changes.get('revision', REVISION)}"
        values: dict[str, Any] = {
            "key": f"org--model-{REVISION[:12]}",
            "repository": "org/model",
            "revision": REVISION,
            "store": str(self.mount / "org--model"),
            "files": wanted(files),
            "source": SourceConfig("hub", base),
            "jobs": 2,
            **changes,
        }
        self.job = Job(**values)
        self.config.write_text(self.job.to_json())
        self.store = Store(self.job.store, self.job.revision)
        self.published, self.partial = Path(self.store.published), Path(self.store.partial)
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self.lib),
            "MS_RUN": str(root / "run"),
            "MS_TRIES": "2",
            "MS_BACKOFF_S": "0.05",
            "MS_STALL_S": "5",
        }

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start the agent: -S, so that nothing but the standard library is there."""
        return subprocess.Popen(
            [sys.executable, "-S", "-B", "-m", "msweights", *map(str, arguments)],
            env={**self.environment, **environment},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the agent in this very process, which is quicker."""
        out, err = io.StringIO(), io.StringIO()
        values = {name: value for name, value in {**self.environment, **environment}.items() if name.startswith("MS_")}
        with patch.dict(os.environ, values), redirect_stdout(out), redirect_stderr(err):
            status = main([str(each) for each in arguments])
        return subprocess.CompletedProcess([str(each) for each in arguments], status, out.getvalue(), err.getvalue())

    def run_alone(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the agent as it runs on a host."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess([str(each) for each in arguments], process.returncode, out, err)

    def stage(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("stage", self.config, *arguments, **environment)

    def check(self, kind: str = "fast") -> subprocess.CompletedProcess[str]:
        return self.run("check", f"--{kind}", self.config)

    def json(self, *arguments: object) -> dict[str, Any]:
        done = self.run(*arguments, "--json")
        data = json.loads(done.stdout.splitlines()[-1])
        assert isinstance(data, dict)
        return data

    def state(self) -> str:
        return str(self.json("status", self.config)["state"])

    def progress(self) -> dict[str, Any]:
        data = json.loads((self.root / "run" / f"{self.job.key}.json").read_text())
        assert isinstance(data, dict)
        return data

    def right(self) -> bool:
        """Tell whether what is published is byte for byte the model, and nothing else."""
        found = {p.relative_to(self.published).as_posix(): p for p in self.published.rglob("*") if not p.is_dir()}
        found.pop(".metalserve-manifest")
        return {name: path.read_bytes() for name, path in found.items()} == self.files


def tamper(path: Path, at: int, *, keep_times: bool = True) -> None:
    """Flip one byte of a file, as the super-user or a bad drive might."""
    state = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    path.chmod(state.st_mode & 0o777)
    if keep_times:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
