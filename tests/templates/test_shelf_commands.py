"""The commands around the shelf, as a user runs them: what they print, and what they exit with."""

from __future__ import annotations

import json
import stat
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from metalserve.errors import MetalserveError
from metalserve.paths import templates_directory
from metalserve.templates.changes import side_of
from metalserve.templates.machine_identity import Identity
from metalserve.templates.manifest import file_entries
from metalserve.templates.orders import Orders
from metalserve.templates.packages import Package, write_tsv
from metalserve.templates.shelf import Build, Shelf
from metalserve.templates.signing import KEY_VARIABLE
from metalserve.templates.since import write_changes
from tests.templates.builds import make_build, make_keys, some_manifest


class Shop:
    """A shelf in the place where the commands look for it."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self.capsys = path, capsys
        self.shelf = Shelf(templates_directory() / "shelf")
        self.key, _ = make_keys(path)
        self.public = ["--key", str(path / "public.pub")]

    def publish(self, number: int, version: str = "5.2-3") -> Build:
        out = templates_directory() / "work" / str(number)
        manifest = make_build(out, number)
        packages = [Package("bash", version, "amd64", "bash")]
        write_tsv(packages, out / "packages.tsv")
        write_changes(self.shelf, "debian-13", side_of(manifest, packages), self.path, out)
        return self.shelf.publish(out, some_manifest(file_entries(out), manifest.raw, number), key=self.key)

    def run(self, name: str, *words: str) -> tuple[int, str]:
        """Return the exit status and what was printed."""
        command = import_module(f"metalserve.cli.template_{name}").command
        status = command.main(args=list(words), prog_name=f"metalserve template {name}", standalone_mode=False)
        return status or 0, self.capsys.readouterr().out

    def answer(self, name: str, *words: str, status: int = 0) -> Any:
        found, text = self.run(name, *words, "--json")
        assert found == status
        return json.loads(text)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shop:
    monkeypatch.setenv("METALSERVE_TEMPLATES_DIR", str(tmp_path / "templates"))
    monkeypatch.setenv("COLUMNS", "80")
    return Shop(tmp_path, capsys)


def fits(text: str) -> bool:
    return all(len(line) <= 80 for line in text.splitlines())


def test_list_shows_what_could_be_built_and_what_is(shop: Shop) -> None:
    rows = {row["name"]: row for row in shop.answer("list")}
    assert rows["debian-13"] == {"name": "debian-13", "builds": 0, "newest": None, "candidate": None, "stable": None}
    built = shop.publish(0)
    shop.shelf.promote("debian-13", "latest", "stable")
    rows = {row["name"]: row for row in shop.answer("list")}
    assert (rows["debian-13"]["builds"], rows["debian-13"]["stable"]) == (1, built.build)
    _, text = shop.run("list")
    assert "2026-11-26 10:00" in text
    assert fits(text)


def test_list_of_one_shows_its_builds_and_what_is_wrong_with_them(shop: Shop) -> None:
    good, bad = shop.publish(0), shop.publish(1)
    (bad.path / "manifest.json").write_text("{}")
    rows = shop.answer("list", "debian-13")
    assert [row["build"] for row in rows] == [good.build, bad.build]
    assert rows[0]["kernel"] == "6.12.57+deb13-amd64"
    assert "is no manifest" in rows[1]["problem"]
    _, text = shop.run("list", "debian-13")
    assert "is no manifest" in " ".join(text.split())
    assert fits(text)
    assert "has no build" in shop.run("list", "debian-12")[1]


def test_diff_is_against_stable_or_else_the_build_before(shop: Shop) -> None:
    first, second, third = shop.publish(0), shop.publish(1, "5.2-4"), shop.publish(2, "5.2-5")
    assert shop.answer("diff", "debian-13")["before"] == second.build
    shop.shelf.promote("debian-13", first.build, "stable")
    changes = shop.answer("diff", "debian-13")
    assert (changes["before"], changes["after"]) == (first.build, third.build)
    assert changes["updated"][0]["after"] == "5.2-5"
    _, text = shop.run("diff", "debian-13", first.build, second.build)
    assert "1 updates, unknown whether they close holes" in text
    assert "5.2-4" in text
    _, text = shop.run("diff", "debian-13", "--markdown")
    assert "| bash | 5.2-3 | 5.2-5 | unknown | no changelog |" in text
    _, text = shop.run("diff", "debian-13", first.build, first.build)
    assert "nothing changed" in text


def test_verify_says_what_is_wrong_and_fails(shop: Shop) -> None:
    built = shop.publish(0)
    status, text = shop.run("verify", "debian-13", *shop.public)
    assert (status, "as it was signed: 3 files and its disk" in text) == (0, True)
    (built.path / "packages.tsv").write_bytes(b"x" * (built.path / "packages.tsv").stat().st_size)
    (result,) = shop.answer("verify", "debian-13", "--quick", "--all", *shop.public, status=1)
    assert result["ok"] is False
    assert "packages.tsv: has SHA-256" in result["problem"]
    shop.publish(1)
    results = shop.answer("verify", "debian-13", "--all", *shop.public, status=1)
    assert [result["ok"] for result in results] == [False, True]


def test_gc_keeps_what_an_order_names(shop: Shop) -> None:
    builds = [shop.publish(number).build for number in range(4)]
    identity = Identity.model_validate({"serial": "S1", "uuid": None, "macs": ()})
    orders = Orders(templates_directory() / "orders")
    orders.place("node1", identity=identity, template="debian-13", build=builds[1], disk_serial="D1")
    answer = shop.answer("gc", "--keep", "1", status=3)
    assert answer["templates"][0]["removed"] == [builds[0], builds[2]]
    assert answer["templates"][0]["kept"][builds[1]] == "an order names it"
    status, text = shop.run("gc", "debian-13", "--keep", "1")
    assert (status, "--yes removes" in text) == (3, True)
    assert fits(text)
    assert len(shop.shelf.builds("debian-13")) == 4
    status, text = shop.run("gc", "--keep", "1", "--yes")
    assert (status, "freed" in text) == (0, True)
    assert [each.build for each in shop.shelf.builds("debian-13")] == [builds[1], builds[3]]
    assert shop.run("gc", "--keep", "1")[0] == 0


def test_an_order_that_cannot_be_read_stops_gc(shop: Shop) -> None:
    for number in range(3):
        shop.publish(number)
    directory = templates_directory() / "orders"
    directory.mkdir()
    (directory / "node1.json").write_text("{")
    with pytest.raises(MetalserveError):
        shop.run("gc", "--keep", "1", "--yes")
    assert len(shop.shelf.builds("debian-13")) == 3


def test_promote_goes_by_candidate_and_back(shop: Shop) -> None:
    first, second = shop.publish(0), shop.publish(1)
    assert shop.run("promote", "debian-13", "--to", "candidate", *shop.public)[0] == 0
    assert shop.answer("promote", "debian-13", *shop.public) == {
        "name": "debian-13",
        "channel": "stable",
        "before": None,
        "build": second.build,
    }
    _, text = shop.run("promote", "debian-13", first.build, *shop.public)
    assert f"stable is {first.build} now (before: {second.build})" in text
    assert "already" in shop.run("promote", "debian-13", first.build, *shop.public)[1]


def test_promote_refuses_what_is_not_signed_by_a_trusted_key(shop: Shop, tmp_path: Path) -> None:
    shop.publish(0)
    other = tmp_path / "other"
    other.mkdir()
    make_keys(other)
    with pytest.raises(MetalserveError, match="is not trusted"):
        shop.run("promote", "debian-13", "latest", "--key", str(other / "public.pub"))
    assert shop.shelf.channels("debian-13") == {}


def test_key_makes_a_pair_and_tells_no_secret(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, public = tmp_path / "k" / "site.key", tmp_path / "k" / "site.pub"
    monkeypatch.setenv(KEY_VARIABLE, str(secret))
    status, text = shop.run("key", "--public", str(public))
    assert status == 0
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert secret.read_text().splitlines()[1] not in text
    assert str(public) in text
    with pytest.raises(MetalserveError, match="never replaced"):
        shop.run("key", "--public", str(tmp_path / "another.pub"))
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(click.UsageError, match="give --secret FILE"):
        shop.run("key")
