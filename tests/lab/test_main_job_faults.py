"""Each fault that the main job can see fails its host, with the right words, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.fleet import Fleet
from tests.lab.test_main_job import BRIDGED, ENGINES, PCIE, SWITCHED

pytestmark = [pytest.mark.lab, pytest.mark.fleet]

# host, fault, GPU, words of the failure; one row a run, so that the hosts not named must stay as they are
CASES = {
    "off-bus and heat": [
        (SWITCHED, "gpu-off-bus", 3, r"GPU .*4e:00\.0.*(fallen off the bus|no longer answers)"),
        (PCIE, "thermal-throttle", 1, r"GPU 1 .*slowdown.*because of heat"),
    ],
    "links and memory": [
        (SWITCHED, "nvlink-degraded", 5, r"GPU 5 .*expected NV18.*found NV16"),
        (PCIE, "remap-pending", 2, r"GPU 2 .*(Drain and Reset|remap)"),
    ],
    "a bridge and PCIe": [
        (BRIDGED, "nvlink-degraded", 1, r"GPU 1 .*expected NV12.*found NV10"),
        (PCIE, "pcie-downgraded", 0, r"GPU 0 .*pcie-width: expected x16, found x8"),
    ],
    "failed memory and a drive": [
        (BRIDGED, "remap-failed", 0, r"GPU 0 .*row remap failed"),
        (PCIE, "nvme-downgraded", None, r"/dev/nvme0n1 .*expected Gen4 x4, found Gen1 x1"),
    ],
    "fabric manager and a GPU less": [
        (SWITCHED, "fabric-manager-dead", None, r"fabric_manager.*nvidia-fabricmanager\.service"),
        (PCIE, "wrong-gpu-count", 2, r"gpu-count: expected 4 GPU\(s\), found 3"),
    ],
}


@pytest.fixture
def hurt(serving: Fleet) -> Iterator[set[str]]:
    """Names of the hosts that a test hurts; they are healed, rebooted (an Xid stays in the log) and served again."""
    names: set[str] = set()
    yield names
    for name in names:
        serving.lab.heal(name)

    def cure(name: str) -> None:
        serving.lab.reboot(name)
        serving.wait_for_tokens(name, ENGINES[name])

    with ThreadPoolExecutor() as pool:
        list(pool.map(cure, names))
    run = serving.run()
    assert run.rc == 0, run.out


# One of each kind on every change; the others are of the same kinds, and each takes a minute.
OFTEN = ("off-bus and heat",)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in OFTEN else (pytest.mark.slow,)) for case in CASES]
)
def test_a_fault_fails_its_host_alone(serving: Fleet, hurt: set[str], case: str) -> None:
    for host, kind, gpu, _ in CASES[case]:
        hurt.add(host)
        serving.lab.fault(host, kind, gpu)
    if case.startswith("fabric"):
        # the watcher in the guest acts within seconds, like a process that dies
        serving.lab.ssh(
            SWITCHED, "timeout 20 sh -c 'while systemctl -q is-active nvidia-fabricmanager; do sleep .2; done'"
        )
    run = serving.run()
    assert run.rc == 1
    expected = {name: "failed" if name in hurt else "unchanged" for name in ENGINES}
    assert run.statuses == expected, run.out
    for host, kind, _, words in CASES[case]:
        assert re.search(words, run.failure(host), re.DOTALL), (kind, run.failure(host))
        assert "\n-> " in run.failure(host) and not run.failure(host).endswith("-> "), "says what to do"
        assert host in run.out.split("Fleet")[-1]
    # verify, which goes on after the first bad finding, finds the same, on that GPU and no other
    proof = serving.run(deploy="deploys/verify.py")
    for host, kind, gpu, _ in CASES[case]:
        bad = [f for f in proof.report["hosts"][host]["findings"] if f["status"] not in ("ok", "skipped")]
        assert bad, kind
        others = [f for f in bad if gpu is not None and re.match(rf"GPU (?!{gpu}\b)\d+ ", f["subject"])]
        assert others == [], kind
    for host in set(ENGINES) - hurt:
        assert {f["status"] for f in proof.report["hosts"][host]["findings"]} <= {"ok", "skipped"}


@pytest.mark.slow
def test_what_the_run_can_mend_it_mends(serving: Fleet, hurt: set[str]) -> None:
    """A mismatched driver is rebooted into the right one; a full drive is a warning while all is served."""
    hurt |= {BRIDGED, PCIE}
    serving.lab.fault(BRIDGED, "driver-mismatch")
    serving.lab.fault(PCIE, "disk-full")
    serving.lab.ssh(
        PCIE, "timeout 20 sh -c 'until [ -e /srv/models/.metalserve-lab-disk-full ]; do sleep .2; done'; sleep 1"
    )
    run = serving.run()
    assert run.rc == 0, run.out
    assert run.statuses == {SWITCHED: "unchanged", BRIDGED: "changed", PCIE: "unchanged"}
    assert any("reboot: driver" in change for _, _, change in run.report["hosts"][BRIDGED]["changes"])
    assert serving.token(BRIDGED)
    assert any("free" in warning for warning in run.report["hosts"][PCIE]["warnings"])


@pytest.mark.slow
def test_a_stuck_engine_fails_its_host_until_it_can_be_restarted(serving: Fleet, hurt: set[str]) -> None:
    quick = {PCIE: {"engine": {"start_timeout_s": 20, "replicas": 1}}}
    assert serving.run("--limit", PCIE, overrides=quick).rc == 0
    hurt.add(PCIE)
    serving.lab.fault(PCIE, "container-stuck", sticky=True)
    serving.wait_until(PCIE, "docker ps --filter status=paused -q | grep -q .")
    stuck = serving.run(overrides=quick)
    assert stuck.rc == 1
    assert stuck.statuses == {SWITCHED: "unchanged", BRIDGED: "unchanged", PCIE: "failed"}
    assert re.search(r"vllm / serve: .*restart engine 0: running, but no token comes", stuck.failure(PCIE))
    serving.lab.heal(PCIE)
    again = serving.run("--limit", PCIE, overrides=quick)
    assert again.rc == 0, again.out
    assert serving.token(PCIE)
    assert serving.run("--limit", PCIE).rc == 0, "all engines again"


@pytest.mark.slow
def test_an_unreachable_host_is_told_and_the_others_go_on(serving: Fleet, hurt: set[str]) -> None:
    hurt.add(PCIE)
    serving.lab.fault(PCIE, "unreachable")
    run = serving.run()
    assert run.rc == 1
    assert run.statuses == {SWITCHED: "unchanged", BRIDGED: "unchanged", PCIE: "unreachable"}
    assert "connect" in run.failure(PCIE)
