from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.desired.model import Desired, File, Package, Reboot, Unit, Watch, version_matches


@pytest.mark.parametrize(
    ("installed", "wanted", "matches"),
    [
        ("580.178.04-1", "580.178.04", True),
        ("580.178.04", "580.178.04", True),
        ("2:580.178.04-0ubuntu1", "580.178.04", True),
        ("580.178.041-1", "580.178.04", False),
        ("580.178.0", "580.178.04", False),
        ("1.20.0-1", "1.20.0-1", True),
        ("1.20.0-10", "1.20.0-1", False),
        ("5:27.3.1-1~debian.12~bookworm", "27.3.1", True),
        ("5:27.3.1-1", "5:27.3.1", True),
        ("4:27.3.1-1", "5:27.3.1", False),
        ("1.0+dfsg1-2", "1.0", True),
    ],
)
def test_versions(installed: str, wanted: str, matches: bool) -> None:
    assert version_matches(installed, wanted) is matches


@given(st.from_regex(r"[0-9][0-9.]{0,10}", fullmatch=True), st.from_regex(r"[0-9]{1,3}", fullmatch=True))
def test_a_revision_never_matters_and_another_digit_always_does(version: str, more: str) -> None:
    assert version_matches(f"{version}-{more}", version)
    assert version_matches(f"7:{version}-{more}", version)
    assert not version_matches(version + more, version)


def test_packages_to_be_absent() -> None:
    assert Package("x", present=False).satisfied_by(None)
    assert not Package("x", present=False).satisfied_by("1")
    assert not Package("x").satisfied_by(None)


def test_the_hash_is_that_of_the_utf8_bytes() -> None:
    assert File("/x", "ü\n").sha256 == hashlib.sha256("ü\n".encode()).hexdigest()


def test_joining_keeps_order_and_the_first_reboot() -> None:
    first = Desired(units=(Unit("a"),), reboot=Reboot("one"))
    second = Desired(units=(Unit("b"),), reboot=Reboot("two"), packages=(Package("p"),))
    joined = Desired() + first + second
    assert [u.name for u in joined.units] == ["a", "b"]
    assert joined.reboot == Reboot("one")
    assert joined.packages == (Package("p"),)


names = st.lists(st.sampled_from(["/a", "/b", "/c/*"]), max_size=4).map(tuple)
watches = st.builds(
    Watch, paths=names, units=names, sysctls=names, commands=st.dictionaries(st.sampled_from("xyz"), st.just("true"))
)


@given(watches, watches)
def test_a_joined_watch_covers_both(a: Watch, b: Watch) -> None:
    joined = a | b
    assert joined.covers(a)
    assert joined.covers(b)
    assert joined | b == joined
    assert not Watch().covers(Watch(paths=("/a",)))


def test_the_same_name_with_another_command_is_not_covered() -> None:
    assert not Watch(commands={"x": "true"}).covers(Watch(commands={"x": "false"}))
