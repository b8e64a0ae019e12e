from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.converge.waves import TO_RETRY, Size, choose, plan_waves, to_retry
from metalserve.errors import MetalserveError

HOSTS = [f"gpu-{i:02d}" for i in range(1, 11)]
GROUPS = {"rack-a": HOSTS[:4], "canaries": [HOSTS[9], HOSTS[0]]}


@pytest.mark.parametrize(
    ("text", "of_ten"), [("1", 1), ("4", 4), ("25%", 3), ("1%", 1), ("100%", 10), (" 50% ", 5), ("99", 99)]
)
def test_sizes(text: str, of_ten: int) -> None:
    assert Size.parse(text).of(10) == of_ten


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-1", "a", "%", "2.5", "10%%", "²"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(MetalserveError, match="is no size of a wave -> give a number of hosts"):
        Size.parse(text)


def test_one_wave_without_options() -> None:
    assert plan_waves(HOSTS) == [HOSTS]
    assert plan_waves([]) == []


def test_a_canary_then_quarters() -> None:
    waves = plan_waves(HOSTS, canary=1, then=Size.parse("25%"))
    assert [len(w) for w in waves] == [1, 3, 3, 3]
    assert waves[0] == ["gpu-01"]


def test_a_canary_then_the_rest() -> None:
    assert [len(w) for w in plan_waves(HOSTS, canary=2)] == [2, 8]
    assert plan_waves(HOSTS[:2], canary=5) == [HOSTS[:2]]


@given(st.integers(0, 40), st.integers(0, 5), st.none() | st.builds(Size, st.integers(1, 100), st.booleans()))
def test_every_host_once_and_in_order(count: int, canary: int, then: Size | None) -> None:
    hosts = [f"h{i}" for i in range(count)]
    waves = plan_waves(hosts, canary=canary, then=then)
    assert [h for w in waves for h in w] == hosts
    assert all(waves)


def test_limits_keep_the_order_of_the_inventory() -> None:
    assert choose(HOSTS, GROUPS, []) == HOSTS
    assert choose(HOSTS, GROUPS, ["canaries"]) == ["gpu-01", "gpu-10"]
    assert choose(HOSTS, GROUPS, ["gpu-1*", "gpu-02"]) == ["gpu-02", "gpu-10"]
    assert choose(HOSTS, GROUPS, ["rack-a", "gpu-01"]) == HOSTS[:4]


def test_a_host_with_brackets_in_its_name() -> None:
    assert choose(["a[1]", "a1"], {}, ["a[1]"]) == ["a[1]", "a1"]  # its own name, and what the pattern matches


def test_a_limit_that_names_nothing() -> None:
    with pytest.raises(MetalserveError, match=r"--limit gpu-99: no such host or group -> hosts: gpu-01.*rack-a"):
        choose(HOSTS, GROUPS, ["gpu-01", "gpu-99"])


def test_what_is_tried_again() -> None:
    statuses = {"gpu-03": "failed", "gpu-01": "unreachable", "gpu-02": "changed", "gpu-04": "unchanged"}
    statuses |= {"gpu-05": "interrupted", "gpu-06": "not reached"}
    assert to_retry(statuses, HOSTS) == ["gpu-01", "gpu-03", "gpu-05", "gpu-06"]
    assert set(TO_RETRY) == {"failed", "unreachable", "interrupted", "not reached"}
    assert to_retry({"gpu-01": "changed"}, HOSTS) == []


def test_a_report_of_another_inventory() -> None:
    with pytest.raises(MetalserveError, match="failed in that run but not in this inventory: old-1"):
        to_retry({"old-1": "failed", "gpu-01": "failed"}, HOSTS)
