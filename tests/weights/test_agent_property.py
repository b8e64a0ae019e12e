"""The store against any order of staging, crashes, damage, checks, repairs, collections and references.

What holds at every moment: what a check accepts is byte for byte the model; what is referenced is not collected; after
any crash the next staging ends right.
"""

from __future__ import annotations

import io
import os
import tempfile
import unittest
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from metalserve.weights.agent import fill, full_check, marker, staging
from metalserve.weights.agent.__main__ import main
from metalserve.weights.agent.config import Job, SourceConfig
from metalserve.weights.agent.tree import remove_tree
from tests.weights.agent_host import content, tamper, wanted

PIECE = 4096
REVISIONS = ("a" * 40, "b" * 40)
MODELS = tuple(
    {
        "config.json": b"{}",
        "empty": b"",
        "dir/model-1.safetensors": content(3 * PIECE + 100, seed),
        "dir/model-2.safetensors": content(2 * PIECE, seed + 1),
        # more than the sampled blocks cover
        "large.bin": content(1 << 20, seed + 2),
    }
    for seed in (1, 5)
)
CRASHED = 99

CALLS = (
    "open", "pwrite", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "chmod", "fchmod", "ftruncate",
    "sendfile", "preadv",
)  # fmt: skip
"""What the agent changes the store with: before any of them it may be cut off."""

which = st.integers(0, 1)
names = st.sampled_from([*sorted(MODELS[0]), "large.bin", "large.bin"])
moments = st.integers(1, 120)


class Store(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        shared = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(dir=shared if os.access(shared, os.W_OK) else None))
        self.mount = self.root / "models"
        self.mount.mkdir()
        self.jobs: list[Job] = []
        for number, revision in enumerate(REVISIONS):
            source = self.root / f"source-{number}"
            self._lay(source, MODELS[number])
            job = Job(
                key=f"job-{number}",
                repository="org/model",
                revision=revision,
                store=str(self.mount / "org--model"),
                files=wanted(MODELS[number]),
                source=SourceConfig("directory", str(source)),
                jobs=2,
            )
            self.jobs.append(job)
            (self.root / f"{number}.json").write_text(job.to_json())
        self.patches = ExitStack()
        for module in (fill, full_check, marker, staging):
            self.patches.enter_context(patch.object(module, "PIECE", PIECE))
        self.patches.enter_context(patch.object(marker, "_SAMPLES", 2 * len(MODELS[0]) + 4))
        self.patches.enter_context(
            patch.dict(os.environ, {"MS_RUN": str(self.root / "run"), "MS_TRIES": "2", "MS_BACKOFF_S": "0"})
        )
        self.used: set[int] = set()

    def teardown(self) -> None:
        if hasattr(self, "patches"):
            self.patches.close()
            remove_tree(str(self.root))

    @staticmethod
    def _lay(place: Path, files: dict[str, bytes]) -> None:
        for name, body in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(body)

    def _config(self, number: int) -> str:
        return str(self.root / f"{number}.json")

    def _published(self, number: int) -> Path:
        return Path(self.jobs[number].store) / REVISIONS[number]

    def _partial(self, number: int) -> Path:
        return Path(self.jobs[number].store) / f".partial-{REVISIONS[number]}"

    def _right(self, number: int) -> bool:
        place = self._published(number)
        found = {p.relative_to(place).as_posix(): p for p in place.rglob("*") if not p.is_dir()}
        found.pop(".metalserve-manifest", None)
        return {name: path.read_bytes() for name, path in found.items()} == MODELS[number]

    def _run(self, *arguments: str) -> int:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
            status = main(arguments)
        self.said = err.getvalue()
        return status

    def _crash(self, moment: int, *arguments: str) -> int:
        """Run a command in a child that ends at once before its call number `moment`: nothing is cleaned up."""
        child = os.fork()
        if child == 0:
            left = [moment]

            def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
                def wrapped(*args: Any, **kwargs: Any) -> Any:
                    left[0] -= 1
                    if left[0] <= 0:
                        os._exit(CRASHED)
                    return call(*args, **kwargs)

                return wrapped

            try:
                for name in CALLS:
                    setattr(os, name, wrap(getattr(os, name)))
                os._exit(self._run(*arguments))
            except BaseException:
                os._exit(CRASHED + 1)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, 1, 3, CRASHED)
        return code

    def _gc(self, keep: int) -> list[str]:
        return ["gc", str(self.mount), "--keep", str(keep), "--configs", str(self.root / "none")]

    @rule(number=which)
    def stage(self, number: int) -> None:
        assert self._run("stage", self._config(number)) == 0, self.said
        assert self._run("check", "--fast", self._config(number)) == 0

    @rule(number=which)
    def repair(self, number: int) -> None:
        assert self._run("repair", self._config(number)) == 0, self.said
        assert self._right(number)

    @rule(number=which, moment=moments, command=st.sampled_from(["stage", "stage", "repair"]))
    def crash(self, number: int, moment: int, command: str) -> None:
        self._crash(moment, command, self._config(number))

    @rule(number=which, moment=st.integers(1, 40))
    def crash_of_a_check(self, number: int, moment: int) -> None:
        self._crash(moment, "check", "--full", self._config(number))

    @rule(keep=st.integers(0, 1), moment=st.integers(1, 40))
    def crash_of_a_collection(self, keep: int, moment: int) -> None:
        before = self._served()
        self._crash(moment, *self._gc(keep))
        assert before <= self._served()

    @rule(number=which, name=names, at=st.integers(0, 1 << 20), keep=st.booleans())
    def tamper(self, number: int, name: str, at: int, keep: bool) -> None:
        path = self._published(number) / name
        if not path.is_file():
            self.stage(number)
        if path.stat().st_size:
            tamper(path, at % path.stat().st_size, keep_times=keep)

    @rule(number=which, block=st.integers(1, 14))
    def tamper_with_one_block(self, number: int, block: int) -> None:
        self.tamper(number, "large.bin", (block << 16) + 17, True)

    @rule(number=which, name=names, size=st.integers(0, 1 << 20))
    def damage_what_is_partial(self, number: int, name: str, size: int) -> None:
        path = self._partial(number) / name
        if path.is_file():
            path.chmod(0o644)
            os.truncate(path, size)

    @rule(number=which, name=names)
    def lose_a_file(self, number: int, name: str) -> None:
        path = self._published(number) / name
        if path.is_file():
            path.parent.chmod(0o755)
            path.unlink()

    @rule(number=which, partial=st.booleans(), link=st.booleans())
    def stray(self, number: int, partial: bool, link: bool) -> None:
        place = self._partial(number) if partial else self._published(number)
        if place.is_dir() and not (place / "extra.safetensors").is_symlink():
            place.chmod(0o755)
            if link:
                with suppress(FileExistsError):
                    (place / "extra.safetensors").symlink_to("/etc/passwd")
            else:
                (place / "extra.safetensors").write_bytes(b"x")

    @rule(number=which, at=st.integers(0, (1 << 20) - 1))
    def wrong_source(self, number: int, at: int) -> None:
        path = self.root / f"source-{number}" / "large.bin"
        tamper(path, at)
        status = self._run("stage", self._config(number))
        tamper(path, at)
        assert status in (0, 1)
        if status == 0:
            assert self._right(number)

    @rule(number=which, kind=st.sampled_from(["sizes", "fast", "full"]))
    def check(self, number: int, kind: str) -> None:
        status = self._run("check", f"--{kind}", self._config(number))
        assert status in (0, 3)
        if kind != "sizes" and status == 0:
            assert self._right(number)
        if kind == "full" and status == 0:
            assert self._run("check", "--fast", self._config(number)) == 0

    @rule(number=which)
    def use(self, number: int) -> None:
        arguments = ["--repository", "org/model", "--revision", REVISIONS[number]]
        assert self._run("reference", "add", str(self.mount), f"engine-{number}", *arguments) == 0
        self.used.add(number)

    @rule(number=which)
    def use_no_more(self, number: int) -> None:
        assert self._run("reference", "remove", str(self.mount), f"engine-{number}") == 0
        self.used.discard(number)

    def _served(self) -> set[int]:
        return {number for number in self.used if self._published(number).exists()}

    @rule(keep=st.integers(0, 1))
    def collect(self, keep: int) -> None:
        before = self._served()
        assert self._run(*self._gc(keep)) == 0, self.said
        assert before <= self._served()
        directory = self.mount / "org--model"
        if directory.exists():
            assert not [p for p in directory.iterdir() if p.name.startswith((".deleting-", ".twin-"))]

    @invariant()
    def what_the_fast_check_accepts_is_right(self) -> None:
        for number in (0, 1):
            if self._published(number).exists() and self._run("check", "--fast", self._config(number)) == 0:
                assert self._right(number)


def machine(examples: int, steps: int) -> type[unittest.TestCase]:
    case: type[unittest.TestCase] = Store.TestCase
    return type(
        "Case",
        (case,),
        {
            "settings": settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            )
        },
    )


class TestStore(machine(8, 12)):  # type: ignore[misc]
    pass


@pytest.mark.slow
class TestStoreForLong(machine(300, 30)):  # type: ignore[misc]
    pass
