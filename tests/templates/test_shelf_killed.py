"""Whatever is killed, wherever: no half build is seen, no channel leads nowhere, and the next run goes on."""

from __future__ import annotations

import shutil
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from metalserve.templates.check import verify_build
from metalserve.templates.manifest import DISK, MANIFEST, Manifest, file_entries, file_entry
from metalserve.templates.shelf import CHANNELS, Channel, Shelf
from metalserve.templates.shelf_files import check_listing
from metalserve.templates.signing import TemplateError, verified_manifest
from tests.templates.builds import make_build, make_keys, some_manifest
from tests.templates.killed import killed_at

NAME = "debian-13"
KILL = st.one_of(st.just(0), st.integers(1, 14))
"""At which change a run is killed; 0 for not at all."""


def small_build(directory: Path, number: int) -> Manifest:
    directory.mkdir(parents=True)
    (directory / DISK).write_bytes(f"disk {number}".encode())
    (directory / "packages.tsv").write_bytes(b"packages")
    return some_manifest(file_entries(directory), file_entry(directory / DISK), number)


class Yard(RuleBasedStateMachine):
    """Publishes, promotes and clears at random; any of it may be killed at any change it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="metalserve-shelf-"))
        self.key, self.keys = make_keys(self.path)
        self.shelf = Shelf(self.path / "shelf")
        self.number = 0
        self.published: set[str] = set()
        self.channels: dict[str, str] = {}
        self.held = ExitStack()
        self.in_use: set[str] = set()

    def teardown(self) -> None:
        self.held.close()
        shutil.rmtree(self.path)

    @initialize()
    def some_are_there(self) -> None:
        for _ in range(3):
            self.publish(0)
        for channel in CHANNELS:
            self.shelf.promote(NAME, "latest", channel)
            self.channels[channel] = max(self.published)

    @rule(kill=KILL)
    def publish(self, kill: int) -> None:
        self.number += 1
        directory = self.path / "work" / str(self.number)
        manifest = small_build(directory, self.number)

        def work() -> None:
            self.shelf.publish(directory, manifest, key=self.key)

        if kill and killed_at(kill, work):
            there = manifest.build in self.seen()
            assert there != directory.exists()
            if there:
                self.published.add(manifest.build)
            return
        if not kill:
            work()
        self.published.add(manifest.build)

    @precondition(lambda self: self.published)
    @rule(data=st.data(), channel=st.sampled_from(["candidate", "stable"]), kill=KILL)
    def promote(self, data: st.DataObject, channel: Channel, kill: int) -> None:
        build = data.draw(st.sampled_from(sorted(self.published)))

        def work() -> None:
            self.shelf.promote(NAME, build, channel)

        if kill and killed_at(kill, work):
            now = self.shelf.channels(NAME)
            assert now in (self.channels, {**self.channels, channel: build})
            self.channels = now
            return
        if not kill:
            work()
        self.channels[channel] = build

    @precondition(lambda self: self.published)
    @rule(data=st.data(), keep=st.integers(1, 3), kill=KILL)
    def clear(self, data: st.DataObject, keep: int, kill: int) -> None:
        needed = data.draw(st.sets(st.sampled_from(sorted(self.published)), max_size=2))
        stays = {*sorted(self.published)[-keep:], *needed, *self.channels.values(), *self.in_use}

        def work() -> None:
            self.shelf.gc(NAME, keep=keep, needed=needed, yes=True)

        if kill and killed_at(kill, work):
            now = self.seen()
            assert stays <= now <= self.published
            self.published = now
            return
        if not kill:
            work()
        self.published = stays

    @precondition(lambda self: self.published)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        build = data.draw(st.sampled_from(sorted(self.published)))
        self.held.enter_context(self.shelf.build(NAME, build).hold())
        self.in_use.add(build)

    @rule()
    def release(self) -> None:
        self.held.close()
        self.in_use.clear()

    def seen(self) -> set[str]:
        return {each.build for each in self.shelf.builds(NAME)}

    @invariant()
    def every_build_is_whole(self) -> None:
        assert self.seen() == self.published
        for each in self.shelf.builds(NAME):
            check_listing(each.path, verified_manifest(each.path, self.keys))

    @invariant()
    def channels_and_the_newest_are_there(self) -> None:
        assert self.shelf.channels(NAME) == self.channels
        for channel, build in self.channels.items():
            assert self.shelf.build(NAME, channel).build == build
        if self.published:
            assert self.shelf.build(NAME).build == max(self.published)


TestYard = Yard.TestCase
TestYard.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)


def test_a_kill_at_every_single_change_of_publishing(tmp_path: Path) -> None:
    key, keys = make_keys(tmp_path)
    shelf = Shelf(tmp_path / "shelf")
    killed = 0
    for number in range(1, 40):
        directory = tmp_path / "work" / str(number)
        manifest = make_build(directory, number)
        if not killed_at(number, lambda d=directory, m=manifest: shelf.publish(d, m, key=key)):
            break
        killed += 1
        for each in shelf.builds(NAME):
            verify_build(each.path, keys)
    assert killed >= 8
    assert manifest.build == shelf.build(NAME).build
    left = {path.name for path in (tmp_path / "shelf" / NAME).iterdir()}
    assert left == {".lock", *(each.build for each in shelf.builds(NAME))}


def test_a_kill_at_every_single_change_of_promoting(tmp_path: Path) -> None:
    key, _ = make_keys(tmp_path)
    shelf = Shelf(tmp_path / "shelf")
    builds = []
    for number in range(2):
        manifest = small_build(tmp_path / "work", number)
        builds.append(shelf.publish(tmp_path / "work", manifest, key=key).build)
    shelf.promote(NAME, builds[0], "stable")
    for number in range(1, 10):
        if not killed_at(number, lambda: shelf.promote(NAME, builds[1], "stable")):
            break
        assert shelf.channels(NAME)["stable"] in builds
    assert number > 3
    assert shelf.channels(NAME) == {"stable": builds[1]}


def test_a_kill_at_every_single_change_of_clearing(tmp_path: Path) -> None:
    key, keys = make_keys(tmp_path)
    shelf = Shelf(tmp_path / "shelf")
    for number in range(1, 30):
        for each in range(3 * number, 3 * number + 3):
            manifest = small_build(tmp_path / "work", each)
            shelf.publish(tmp_path / "work", manifest, key=key)
        killed = killed_at(number, lambda: shelf.gc(NAME, keep=1, yes=True))
        for each in shelf.builds(NAME):
            check_listing(each.path, verified_manifest(each.path, keys))
        assert shelf.build(NAME).build == manifest.build
        shelf.gc(NAME, keep=1, yes=True)
        assert [each.build for each in shelf.builds(NAME)] == [manifest.build]
        assert {path.name for path in (tmp_path / "shelf" / NAME).iterdir()} == {".lock", manifest.build}
        if not killed:
            break
    assert number > 10


def test_a_directory_left_by_a_killed_publisher_can_be_published(tmp_path: Path) -> None:
    key, keys = make_keys(tmp_path)
    shelf = Shelf(tmp_path / "shelf")
    manifest = make_build(tmp_path / "work")
    assert killed_at(9, lambda: shelf.publish(tmp_path / "work", manifest, key=key))
    assert (tmp_path / "work" / MANIFEST).exists()
    assert verify_build(shelf.publish(tmp_path / "work", manifest, key=key).path, keys) == manifest


@pytest.mark.parametrize("same", [True, False])
def test_two_publishers_at_once(tmp_path: Path, same: bool) -> None:
    key, keys = make_keys(tmp_path)
    shelf = Shelf(tmp_path / "shelf")
    works = [tmp_path / f"work-{number}" for number in range(4)]
    manifests = [make_build(work, 0 if same else number) for number, work in enumerate(works)]
    start, refused = threading.Barrier(len(works)), []

    def publish(number: int) -> None:
        start.wait()
        try:
            shelf.publish(works[number], manifests[number], key=key)
        except TemplateError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == (3 if same else 0)
    assert all("is on the shelf already" in each for each in refused)
    assert [each.build for each in shelf.builds(NAME)] == sorted({manifest.build for manifest in manifests})
    for each in shelf.builds(NAME):
        verify_build(each.path, keys)
