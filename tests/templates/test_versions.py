"""Versions are compared as dpkg and rpm compare them."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.templates.versions import compare_debian, compare_rpm


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.0", "1.1"),
        ("1.9", "1.10"),
        ("1.0~rc1", "1.0"),
        ("1.0", "1.0-1"),
        ("1.0-1", "1.0-1+deb13u1"),
        ("6.12.57-1~bpo12+1", "6.12.57-1"),
        ("9.9", "1:0.1"),
        ("1.0-1", "1.0-1+b1"),
        ("252.38-1~deb12u1", "252.39-1~deb12u1"),
        ("1.0a", "1.0+"),
        ("2-1-1", "2-1-2"),
    ],
)
def test_debian_versions(older: str, newer: str) -> None:
    assert compare_debian(older, newer) == -1
    assert compare_debian(newer, older) == 1
    assert compare_debian(newer, newer) == 0


def test_a_leading_zero_changes_nothing() -> None:
    assert compare_debian("1.01-0", "1.1-00") == 0


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.0-1.el9", "1.0-2.el9"),
        ("1.0", "1.0.1"),
        ("1.0~rc1", "1.0"),
        ("1.0", "1.0^git1"),
        ("1.0^git1", "1.0.1"),
        ("1.0a", "1.0.1"),
        ("5.14.0-503.11.1.el9_5", "5.14.0-570.12.1.el9_6"),
        ("2:1.0", "3:0.1"),
        ("fc4", "5"),
    ],
)
def test_rpm_versions(older: str, newer: str) -> None:
    assert compare_rpm(older, newer) == -1
    assert compare_rpm(newer, older) == 1
    assert compare_rpm(newer.replace(".", "_"), newer) == 0


VERSION = st.builds(
    lambda epoch, upstream, revision: f"{epoch}{upstream}{revision}",
    st.sampled_from(["", "0:", "1:"]),
    st.text("0123ab.+~", min_size=0, max_size=6).map(lambda text: f"1{text}"),
    st.one_of(st.just(""), st.text("012a.+~", min_size=1, max_size=4).map(lambda text: f"-{text}")),
)


@given(VERSION, VERSION)
def test_an_order_is_an_order(one: str, other: str) -> None:
    assert compare_debian(one, other) == -compare_debian(other, one)
    assert compare_rpm(one, other) == -compare_rpm(other, one)
    assert compare_debian(one, one) == 0


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg is not installed")
@settings(max_examples=10)
@given(st.lists(st.tuples(VERSION, VERSION), min_size=40, max_size=40))
def test_dpkg_says_the_same(pairs: list[tuple[str, str]]) -> None:
    words = {-1: "lt", 0: "eq", 1: "gt"}
    script = "".join(
        f"dpkg --compare-versions '{a}' {words[compare_debian(a, b)]} '{b}' || echo '{a} {b}'\n" for a, b in pairs[:40]
    )
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ""
