from __future__ import annotations

import dataclasses

import pytest

from metalserve.desired.diff import difference
from metalserve.desired.observed import ObservedFile
from metalserve.errors import MetalserveError
from roles.base import desired
from tests.roles.helpers import make_node


def local_time(target: str) -> ObservedFile:
    return ObservedFile(desired.LOCALTIME, "link", "0777", "root", "root", 0.0, target=target)


@pytest.mark.parametrize("os_id", desired.SUPPORTED)
def test_supported_systems(os_id: str) -> None:
    assert desired.install(make_node(os_id=os_id)).packages


def test_an_unsupported_system_is_refused_in_words() -> None:
    with pytest.raises(MetalserveError, match="is not supported -> reinstall with one of: debian-12"):
        desired.install(make_node(os_id="debian-11"))
    with pytest.raises(MetalserveError, match="architecture aarch64 is not supported yet"):
        desired.install(make_node(facts={"arch": "aarch64"}))


def test_packages_of_the_settings_come_once() -> None:
    node = make_node(settings={"base": {"packages": ["htop", "curl"], "ntp": False}})
    names = [p.name for p in desired.install(node).packages]
    assert names.count("curl") == 1 and "htop" in names
    assert "chrony" not in names


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("/usr/share/zoneinfo/Europe/Rome", []),
        ("../usr/share/zoneinfo/Europe/Rome", []),
        ("/usr/share/zoneinfo/Etc/UTC", ["set the time zone to Europe/Rome"]),
    ],
)
def test_the_time_zone_is_the_link_not_only_the_name(target: str, wanted: list[str]) -> None:
    node = make_node(settings={"base": {"timezone": "Europe/Rome"}}, files={desired.LOCALTIME: local_time(target)})
    changes = difference(desired.configure(node), node.observed)
    assert [c.summary for c in changes if c.kind == "action"] == wanted


def test_nouveau_and_unattended_upgrades() -> None:
    files = {f.path: f.content or "" for f in desired.configure(make_node()).files}
    assert "blacklist nouveau" in files[desired.NOUVEAU]
    assert '"nvidia-"' in files[desired.UNATTENDED] and '"linux-image-"' in files[desired.UNATTENDED]


def test_kernel_settings_of_the_inventory_win() -> None:
    node = make_node(settings={"base": {"sysctl": {"vm.swappiness": "10"}}}, sysctls={"vm.swappiness": "60"})
    changes = difference(desired.activate(node), node.observed)
    assert "sysctl vm.swappiness: 60 -> 10" in [c.summary for c in changes]
    assert (
        "vm.swappiness = 10\n" in {f.path: f.content or "" for f in desired.configure(node).files}[desired.SYSCTL_FILE]
    )


def test_a_container_has_the_clock_of_its_machine() -> None:
    assert desired.activate(make_node()).units
    assert desired.activate(make_node(facts={"virt": "systemd-nspawn"})).units == ()


def test_everything_it_decides_from_is_watched() -> None:
    node = make_node(settings={"base": {"sysctl": {"net.core.rmem_max": "1"}}})
    watch = desired.watch(node.settings, node.release)
    wanted = desired.configure(node) + desired.activate(node)
    assert {f.path for f in wanted.files} <= set(watch.paths)
    assert {s.key for s in wanted.sysctls} <= set(watch.sysctls)
    assert {u.name for u in wanted.units} <= set(watch.units)
    assert dataclasses.is_dataclass(watch)
