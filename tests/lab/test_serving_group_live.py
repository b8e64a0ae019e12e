"""One engine over two hosts of the lab: its parts come up together, and again when one of them was lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.fleet import Fleet
from tests.lab.test_main_job import BRIDGED, PCIE

pytestmark = [pytest.mark.lab, pytest.mark.fleet, pytest.mark.slow]

HOSTS = (BRIDGED, PCIE)
UNIT = "metalserve-vllm-0.service"


def settings(fleet: Fleet, **more: Any) -> dict[str, Any]:
    group = {"hosts": {name: fleet.lab.address(name) for name in HOSTS}}
    engine = {
        "group": group,
        "tensor_parallel": 2,
        "pipeline_parallel": 2,
        "start_timeout_s": 90,
        "restart_delay_s": 1,
        "stop_timeout_s": 5,
        **more,
    }
    return {name: {"engine": engine} for name in HOSTS}


def both(fleet: Fleet, *arguments: str, **more: Any) -> Any:
    return fleet.run("--limit", BRIDGED, "--limit", PCIE, *arguments, overrides=settings(fleet, **more))


@pytest.fixture(scope="module")
def group(serving: Fleet) -> Iterator[Fleet]:
    """Both hosts brought to one engine; afterwards each has its own again."""
    run = both(serving)
    assert run.rc == 0, run.out
    yield serving
    back = serving.run("--limit", BRIDGED, "--limit", PCIE)
    assert back.rc == 0, back.out


def starts(fleet: Fleet) -> list[str]:
    """Return what tells this start of each host's part from any other."""
    return [fleet.lab.ssh(name, f"systemctl show -p InvocationID --value {UNIT}").stdout.strip() for name in HOSTS]


def wait_anew(fleet: Fleet, before: list[str]) -> None:
    """Wait until both parts were started anew and a token comes."""
    for name, old in zip(HOSTS, before, strict=True):
        fleet.wait_until(
            name, f"[ $(systemctl show -p InvocationID --value {UNIT}) != {old} ] && systemctl -q is-active {UNIT}", 110
        )
    fleet.wait_for_tokens(BRIDGED, range(8000, 8001), 60)


def watched(fleet: Fleet, host: str) -> str:
    return fleet.lab.ssh(host, "journalctl -q -o cat --no-pager -n 40 -u metalserve-vllm-watch").stdout


def test_the_parts_come_up_together_and_a_second_run_changes_nothing(group: Fleet) -> None:
    assert group.token(BRIDGED)
    assert group.token(PCIE) == "", "only the head has an API"
    logs = [group.lab.ssh(name, "docker logs metalserve-vllm-0 2>&1").stdout for name in HOSTS]
    assert all("all 2 nodes have joined" in log for log in logs)
    assert "node_rank=0" in logs[0] and "node_rank=1" in logs[1]
    again = both(group)
    assert again.statuses == dict.fromkeys(HOSTS, "unchanged"), again.out


def test_a_lost_member_restarts_the_group_in_order(group: Fleet) -> None:
    before = starts(group)
    assert group.lab.ssh(PCIE, "docker kill metalserve-vllm-0").returncode == 0
    wait_anew(group, before)
    assert re.search(rf"host {PCIE} of the group had joined and has ended", watched(group, BRIDGED))
    # the member waits for the head's new start before it begins its own
    times = [
        float(group.lab.ssh(name, f"systemctl show -p ExecMainStartTimestampMonotonic --value {UNIT}").stdout)
        for name in HOSTS
    ]
    assert times[0] < times[1], "lab hosts share one clock"


def test_a_lost_head_is_followed_by_its_members(group: Fleet) -> None:
    before = starts(group)
    assert group.lab.ssh(BRIDGED, "docker kill metalserve-vllm-0").returncode == 0
    wait_anew(group, before)
    assert f"the head {BRIDGED} was started anew" in watched(group, PCIE)


def test_a_member_that_was_rebooted_joins_again(group: Fleet) -> None:
    before = starts(group)
    group.lab.reboot(PCIE)
    wait_anew(group, before)


def test_the_group_is_replaced_in_step_and_goes_back_together(group: Fleet) -> None:
    before = starts(group)
    run = both(group, max_model_len=1024)
    assert run.rc == 0, run.out
    assert starts(group) != before and group.token(BRIDGED)
    bad = both(group, max_model_len=4096)
    assert bad.rc == 1
    assert "one before serves again" in bad.failure(BRIDGED).replace("\n", " "), bad.out
    assert group.token(BRIDGED)
    for name in HOSTS:
        assert "--max-model-len 1024" in group.lab.ssh(name, f"cat /etc/systemd/system/{UNIT}").stdout


def test_hosts_that_are_set_up_for_something_else_do_not_start_together(group: Fleet) -> None:
    other = {BRIDGED: settings(group, start_timeout_s=15, max_model_len=512)[BRIDGED]}
    run = group.run("--limit", BRIDGED, overrides=other)
    assert run.rc == 1
    said = group.lab.ssh(BRIDGED, f"journalctl -q -o cat --no-pager -n 200 -u {UNIT}").stdout
    assert f"host {PCIE} is set up for something else" in said
    assert both(group).rc == 0
