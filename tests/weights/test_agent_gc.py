"""References and garbage collection: what is used, locked or not metalserve's own is never removed."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from unittest.mock import patch

import pytest

from metalserve.weights.agent import collect as module
from metalserve.weights.agent.collect import collect
from metalserve.weights.agent.errors import AgentError
from metalserve.weights.agent.references import Reference, add, read_references, remove
from metalserve.weights.agent.store import Store
from tests.weights.agent_host import Host
from tests.weights.source import Source, serving

FILES = {"config.json": b"{}", "sub/model.safetensors": bytes(range(256)) * 64}


def revision(number: int) -> str:
    return f"{number:040x}"


class Models:
    """A mount point with some published models, of two names in turn."""

    def __init__(self, root: Path, number_of: int) -> None:
        self.root = root
        self.hosts = []
        with serving(Source(dict(FILES))) as source:
            for number in range(number_of):
                self.hosts.append(self.host(source.url, number))
                done = self.hosts[-1].stage()
                assert done.returncode == 0, done.stderr
        self.mount = str(root / "models")

    def host(self, url: str, number: int) -> Host:
        store = self.root / "models" / ("org--model" if number % 2 else "org--other")
        return Host(self.root, FILES, url, revision=revision(number), store=str(store), key=f"job-{number}")

    def there(self) -> list[int]:
        return [n for n, host in enumerate(self.hosts) if host.published.exists()]

    def use(self, number: int, name: str = "vllm-8000") -> None:
        repository = "org/model" if number % 2 else "org/other"
        add(self.mount, Reference(name, repository, revision(number), "2026.10"))

    def collect(self, keep: int = 0, *, dry: bool = False) -> module.Collected:
        return collect(self.mount, keep, dry=dry, configs=str(self.root / "no-jobs"))


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path, 4)


def test_what_is_referenced_and_the_most_recent_stay(models: Models) -> None:
    models.use(0)
    done = models.collect(keep=1)
    assert models.there() == [0, 3]
    assert done.kept[models.hosts[0].store.published] == "referenced by vllm-8000"
    assert done.kept[models.hosts[3].store.published] == "recently published"
    assert done.freed_bytes > 2 * 16384
    assert models.hosts[0].check("full").returncode == 0
    models.collect(keep=0)
    assert models.there() == [0]
    remove(models.mount, "vllm-8000")
    models.collect(keep=0)
    assert models.there() == []
    assert sorted(p.name for p in Path(models.mount).iterdir()) == [".references"]


def test_the_order_of_publication_is_not_told_by_a_clock(tmp_path: Path) -> None:
    times = count(4_000_000_000, -1000)
    with patch("time.time", side_effect=lambda: next(times)):
        models = Models(tmp_path, 4)
    models.collect(keep=2)
    assert models.there() == [2, 3]


def test_dry_removes_nothing(models: Models) -> None:
    told = models.collect(dry=True).removed
    assert models.there() == [0, 1, 2, 3]
    assert models.collect().removed == told


def test_what_is_foreign_is_not_touched(models: Models) -> None:
    mount = Path(models.mount)
    foreign = [
        mount / "lost+found" / "x",
        mount / "datasets" / "x",
        mount / "org--mine" / revision(7) / "model.safetensors",
        mount / "org--model" / "notes.txt",
        mount / "org--model" / revision(8) / "model.safetensors",
        mount / "org--model" / "main" / "model.safetensors",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True) if not path.parent.exists() else None
        path.write_text("x")
    elsewhere = models.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "keep").write_text("x")
    (mount / "org--link").symlink_to(elsewhere)
    (mount / "org--model" / revision(9)).symlink_to(elsewhere)
    done = models.collect()
    assert models.there() == []
    assert all(path.exists() for path in foreign)
    assert (elsewhere / "keep").exists()
    assert str(mount / "org--mine") in done.foreign
    assert str(mount / "org--model" / revision(8)) in done.foreign


def test_a_locked_model_is_left_alone(models: Models) -> None:
    store = models.hosts[1].store
    with store.lock("stage"):
        done = models.collect()
        assert models.there() == [1, 3]  # both of the name that is locked
        assert "another run (stage, pid" in done.kept[store.directory]
    models.collect()
    assert models.there() == []


def test_leftovers_go_unless_somebody_is_to_stage_them(models: Models) -> None:
    directory = Path(models.hosts[1].store.directory)
    names = [".twin-x", ".marker.new", ".wanted", f".damaged-{revision(99)}", f".checked-{revision(99)}"]
    for name in names:
        (directory / name).write_text("x")
    for number in (50, 51, 1):
        (directory / f".partial-{revision(number)}").mkdir()
    (directory / ".deleting-old" / "sub").mkdir(parents=True)
    for number in range(4):
        models.use(number, f"engine-{number}")
    with serving(Source(dict(FILES))) as source:
        Host(models.root / "jobs", FILES, source.url, revision=revision(51), store=str(directory))
    done = collect(models.mount, 0, configs=str(models.root / "jobs" / "etc"))
    assert models.there() == [0, 1, 2, 3]
    left = sorted(p.name for p in directory.iterdir())
    assert left == sorted([revision(1), revision(3), f".partial-{revision(51)}", ".lock"])
    assert done.kept[str(directory / f".partial-{revision(51)}")] == "to be staged"


def test_a_job_that_cannot_be_read_stops_the_collection(models: Models) -> None:
    configs = models.root / "jobs"
    configs.mkdir()
    (configs / "x.json").write_text("{")
    with pytest.raises(AgentError, match=r"x\.json: cannot be read"):
        collect(models.mount, 0, configs=str(configs))
    assert models.there() == [0, 1, 2, 3]


def test_a_reference_that_cannot_be_read_stops_the_collection(models: Models) -> None:
    (Path(models.mount) / ".references").mkdir(exist_ok=True)
    (Path(models.mount) / ".references" / "vllm.json").write_text('{"format": 2}')
    with pytest.raises(AgentError, match="of another version"):
        models.collect()
    assert models.there() == [0, 1, 2, 3]


@pytest.mark.parametrize("where", ["remove_tree", "rename"])
def test_cut_off_it_leaves_nothing_that_looks_like_a_model(models: Models, where: str) -> None:
    class Cut(BaseException):
        pass

    target = "metalserve.weights.agent.collect." + ("remove_tree" if where == "remove_tree" else "os.rename")
    calls = iter(range(100))

    def cut(*_: object) -> None:
        if where == "rename" or next(calls) > 0:
            raise Cut

    with patch(target, side_effect=cut), pytest.raises(Cut):
        models.collect()
    for number in models.there():
        assert models.hosts[number].right()
    models.collect()
    assert models.there() == []
    assert sorted(p.name for p in Path(models.mount).iterdir()) == [".references"]


def test_references_on_the_command_line(models: Models) -> None:
    host = models.hosts[0]
    arguments = ("reference", "add", models.mount, "vllm@8000.service", "--repository", "org/other")
    assert host.json(*arguments, "--revision", revision(0), "--release", "2026.10")["changed"] is True
    assert host.json(*arguments, "--revision", revision(0), "--release", "2026.10")["changed"] is False
    listed = host.json("references", models.mount)["references"]
    assert [(r["name"], r["revision"], r["published"]) for r in listed] == [("vllm@8000.service", revision(0), True)]
    assert abs(listed[0]["since"] - time.time()) < 60
    assert host.json("status", host.config)["references"] in ([], ["vllm@8000.service"])
    assert host.json(*arguments, "--revision", revision(2))["changed"] is True
    assert host.json("gc", models.mount, "--keep", "0", "--configs", "/none")["removed"]
    assert models.there() == [2]
    assert host.json("reference", "remove", models.mount, "vllm@8000.service")["changed"] is True
    assert host.json("reference", "remove", models.mount, "vllm@8000.service")["changed"] is False


@pytest.mark.parametrize(
    ("name", "repository", "number"), [("../x", "org/model", "0" * 40), ("x", "../..", "0" * 40), ("x", "a/b", "main")]
)
def test_references_with_bad_names_are_refused(tmp_path: Path, name: str, repository: str, number: str) -> None:
    with pytest.raises(AgentError):
        add(str(tmp_path), Reference(name, repository, number))
    assert read_references(str(tmp_path)) == []


def test_no_mount_point(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="does not exist"):
        collect(str(tmp_path / "none"), configs="/none")


def test_a_model_removed_while_another_waited_for_its_lock(tmp_path: Path) -> None:
    models = Models(tmp_path, 1)
    store = Store(models.hosts[0].job.store, revision(5))
    lock = Path(models.hosts[0].job.store) / ".lock"
    waited = []

    def waiting(_: str) -> None:
        waited.append(1)
        if len(waited) == 2:
            held.__exit__(None, None, None)
            lock.unlink()

    held = models.hosts[0].store.lock("gc")
    held.__enter__()
    with store.lock("stage", waiting=waiting):
        assert lock.exists()  # one that others see, not the one that was removed
