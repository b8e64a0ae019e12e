from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.lab import drives, lifecycle, network, rootfs
from metalserve.lab.fleet import FLEETS, load_fleet, running_fleet
from metalserve.lab.layout import Layout
from metalserve.lab.profiles import load_profile
from metalserve.lab.system import write_json
from metalserve.releases import load_release


@pytest.mark.parametrize("file", sorted(FLEETS.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_fleets_name_real_profiles_and_releases(file: Path) -> None:
    fleet = load_fleet(file.stem)
    load_release(fleet.release)
    for host in fleet.hosts.values():
        profile = load_profile(host.profile)
        if "count" in host.expect:
            assert host.expect["count"] == len(profile["gpus"])
        if "links" in host.expect:
            assert host.expect["links"] == profile["fabric"]["kind"]


def test_the_default_fleet_has_each_kind_of_link() -> None:
    links = {host.expect["links"] for host in load_fleet("default").hosts.values()}
    assert links == {"nvswitch", "bridge", "pcie"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("hosts: {a: {profile: x}}", "release"),
        ("release: r\nhosts: {}", "hosts"),
        ("release: r\nhosts: {a: {profile: x, suite: noble}}", "suite"),
        ("release: r\nhosts: {a: {profil: x}}", "profil"),
        ("release: r\nhosts: {'a b': {profile: x}}", "not a host name"),
        ("release: r\nhosts: {../a: {profile: x}}", "not a host name"),
        ("release: [", "not YAML"),
        ("- a", "dictionary"),
    ],
)
def test_broken_fleets_are_refused_with_file_and_key(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    with pytest.raises(MetalserveError) as caught:
        load_fleet(str(path))
    assert word in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_unknown_fleet_names_those_there_are() -> None:
    with pytest.raises(MetalserveError, match="default"):
        load_fleet("nope")


def test_a_lab_that_is_not_up(tmp_path: Path) -> None:
    with pytest.raises(MetalserveError, match=r"not up.*lab up"):
        running_fleet(Layout(tmp_path))


def test_kernel_names_fit_for_every_lab_and_host() -> None:
    layout = Layout(Path("/x"), 250)
    assert len(layout.port_name(199)) <= 15
    assert len(layout.controller_link) <= 15
    assert layout.host_address(199) == "10.231.250.210"


@pytest.mark.parametrize("text", ["0", "251", "x", "-1", "7.5"])
def test_lab_numbers_are_checked(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("METALSERVE_LAB_ID", text)
    with pytest.raises(MetalserveError, match="METALSERVE_LAB_ID"):
        Layout.current()


def test_a_second_lab_takes_a_number_of_its_own_and_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("METALSERVE_LAB_ID", raising=False)
    monkeypatch.setenv("METALSERVE_LAB_DIR", str(tmp_path / "mine"))
    taken, busy = {77, 79}, {78}
    monkeypatch.setattr(lifecycle, "_other_owner", lambda each: "/other" if each.lab_id in taken else None)
    monkeypatch.setattr(network, "addresses_in_use", lambda each: Path("eth0") if each.lab_id in busy else None)
    assert lifecycle.choose_number(Layout.current()).lab_id == 80
    taken.clear()
    assert lifecycle.choose_number(Layout.current()).lab_id == Layout.current().lab_id == 80
    busy.add(80)
    (tmp_path / "mine" / "fleet.json").write_text("{}")
    assert lifecycle.choose_number(Layout.current()).lab_id == 80, "a lab that is up stays where it is"
    monkeypatch.setenv("METALSERVE_LAB_ID", "79")
    assert lifecycle.choose_number(Layout.current()).lab_id == 79, "what the environment says is not second-guessed"


def test_drives_are_as_many_as_the_profile_says_and_no_larger_than_the_lab_affords(tmp_path: Path) -> None:
    assert drives.wanted(tmp_path) == []
    write_json(tmp_path / "profile.json", {"nvme": [{"size_gb": 3840}, {"size_gb": 1}, {"size_gb": 0}]})
    assert drives.wanted(tmp_path) == [drives.MAX_BYTES, 10**9, drives.MIN_BYTES]


def test_a_host_may_be_installed_from_a_template_that_is_there(tmp_path: Path) -> None:
    packed, fleet = tmp_path / "root.tar.zst", tmp_path / "fleet.yaml"
    fleet.write_text(f"release: 2026.11-lts\nhosts: {{one: {{profile: l40s-4, template: {packed}}}}}\n")
    with pytest.raises(MetalserveError, match=r"one: there is no template .*root\.tar\.zst"):
        load_fleet(str(fleet))
    packed.touch()
    assert load_fleet(str(fleet)).hosts["one"].template == str(packed)


def test_the_tree_of_a_template_is_another_when_its_content_is(tmp_path: Path) -> None:
    layout, packed = Layout(tmp_path / "lab", 150), tmp_path / "root.tar.zst"
    packed.write_bytes(b"one")
    first = rootfs.template_path(layout, "trixie", packed)
    packed.write_bytes(b"two")
    assert rootfs.template_path(layout, "trixie", packed) != first
    assert rootfs.template_path(layout, "bookworm", packed).name.startswith("template-bookworm-")


def test_a_template_of_another_release_is_refused_and_nothing_of_it_stays(tmp_path: Path) -> None:
    layout, packed, tree = Layout(tmp_path / "lab", 150), tmp_path / "root.tar.zst", tmp_path / "tree"
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "usr/lib/os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    subprocess.run(["tar", "--zstd", "-cf", packed, "-C", tree, "."], check=True)
    with pytest.raises(MetalserveError, match="no root file system of trixie"):
        rootfs.unpack_template(layout, "trixie", packed)
    assert list(layout.cache.iterdir()) == []
