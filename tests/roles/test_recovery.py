"""Role recovery: what it begins with, what it writes before each step, how it judges one, when it ends. Values only."""

from __future__ import annotations

import base64
import io
import tarfile

import pytest

from metalserve.desired.model import Action, File
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.recovery.record import RECORD, Made, Record
from metalserve.upgrade.moves import Act, End, Pause, Trace
from roles.recovery import desired as role
from roles.recovery.decide import SETTLE_S, next_move
from roles.recovery.seen import BUNDLE, RECORD_SECTION
from tests.recovery.test_look import BOOTED, SMI
from tests.roles.helpers import make_node

NEEDS_RESET = SMI.replace(
    "GPU Recovery Action                   : None", "GPU Recovery Action                   : GPU Reset Required"
)
OFF_BUS = "[  500.000000] NVRM: Xid (PCI:0000:4e:00): 79, pid=1, name=x, GPU has fallen off the bus."
SILENT = "unit active\nhealth 200\ncompletion 000"
DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.178.04\n"


def bundle(now: float = BOOTED + 1000, boot: str = "b1", **files: str) -> str:
    texts = {
        "kernel.log": files.get("kernel", ""), "smi-q.txt": files.get("smi", SMI), "driver.txt": DRIVER,
        "pci.txt": "0000:1b:00.0 0302: 10de:2330 (rev a1)\n", "gpu-containers.txt": "",
        "token-0.txt": files.get("token", "unit active\nhealth 200\ncompletion 200\ntokens 1 2"),
        "gpu-holders.txt": files.get("holders", ""),
        "clock.txt": f"{now}\n{boot}\n4711\n[ 1000.000000] x\n2026-11-25T10:03:20,000000+00:00 x\n",
        "upgrade.json": files.get("upgrade", ""),
    }  # fmt: skip
    status = {"smi-q.txt": files.get("smi_status", "0")}
    texts["manifest.tsv"] = "".join(f"{name}\t{status.get(name, '0')}\t0.1\tx\n" for name in texts)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(f"evidence/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return base64.encodebytes(stream.getvalue()).decode()


def host(given: str, record: Record | None = None, **settings: object) -> Node:
    files = {RECORD: record.text()} if record is not None else {}
    told = {BUNDLE: given, **({RECORD_SECTION: record.text()} if record is not None else {})}
    return make_node(sections=told, files=files, settings=settings)


def made(**changes: object) -> Record:
    step = {"rung": "reset-gpu", "boot": "b1:4711", "begun": BOOTED + 900, "reason": "x", **changes}
    return Record(begun=BOOTED + 890, controller="root@there pid 1", steps=(Made.model_validate(step),))


def act(node: Node, trace: Trace | None = None, failure: str = "") -> Act:
    move = next_move(node, trace or Trace("root@here pid 2"), failure)
    assert isinstance(move, Act), move
    return move


def written(move: Act) -> Record:
    found = next(c.resource for c in move.changes if isinstance(c.resource, File) and c.resource.path == RECORD)
    assert found.content is not None
    return Record.model_validate_json(found.content)


def test_a_host_that_is_well_is_left_alone() -> None:
    node = host(bundle())
    assert role.outline(node) == []
    assert isinstance(next_move(node, Trace("me")), End)


def test_evidence_then_record_then_step() -> None:
    node = host(bundle(smi=NEEDS_RESET))
    assert [step for step, _ in role.outline(node)] == ["verdict", "evidence", "reset-gpu"]
    move = act(node)
    kinds = [type(change.resource) for change in move.changes]
    assert kinds == [Action, File, Action]
    first, last = move.changes[0].resource, move.changes[2].resource
    assert isinstance(first, Action) and "/var/lib/metalserve/evidence" in first.script
    assert isinstance(last, Action) and "nvidia-smi -r " in last.script
    step = written(move).steps[-1]
    assert (step.rung, step.boot, step.ended) == ("reset-gpu", "b1:4711", None)
    assert step.subjects == (("gpu", "0000:1b:00.0", "1654321009876"),)


def test_a_step_that_helped_ends_it_and_its_old_events_count_no_more() -> None:
    node = host(bundle(kernel=OFF_BUS), made(rung="reboot", boot="b0:1"))
    trace = Trace("me")
    move = act(node, trace)
    assert move.key == "finish"
    record = written(move)
    assert record.result == "recovered" and record.steps[0].proof == "good"
    assert record.steps[0].outcome == "unknown", "whoever asked for it is gone"
    trace.acted["finish"] = 1
    end = next_move(host(bundle(), record), trace)
    assert isinstance(end, End) and end.proofs["recovery"].startswith("reboot (good)")
    assert role.outline(host(bundle(kernel=OFF_BUS), record)) == [], "what was before the recovery is over"


def test_a_bad_sign_counts_when_it_lasts_and_then_the_next_step_comes() -> None:
    node = host(bundle(smi=NEEDS_RESET, token=SILENT), made())
    trace = Trace("me")
    trace.acted[f"reset-gpu at {BOOTED + 900:.3f}"] = 1
    assert isinstance(next_move(node, trace), Pause)
    trace.paused_s = SETTLE_S + 1
    move = act(node, trace)
    assert move.step == "reload-driver"
    assert [(s.rung, s.proof) for s in written(move).steps] == [("reset-gpu", "bad"), ("reload-driver", None)]


def test_a_host_that_serves_is_not_taken_further_up() -> None:
    trace = Trace("me", paused_s=SETTLE_S + 1)
    trace.acted[f"reset-gpu at {BOOTED + 900:.3f}"] = 1
    assert act(host(bundle(smi=NEEDS_RESET), made()), trace).step == "finish"


def test_a_step_that_failed_is_not_waited_for() -> None:
    trace = Trace("me")
    trace.acted[f"reset-gpu at {BOOTED + 900:.3f}"] = 1
    move = act(host(bundle(smi=NEEDS_RESET), made()), trace, "nvidia-smi -r ended with 19")
    assert written(move).steps[0].outcome == "failed" and "ended with 19" in written(move).steps[0].words


def test_a_reboot_that_did_not_happen_is_no_cure() -> None:
    move = next_move(host(bundle(), made(rung="reboot", boot="b1:4711")), Trace("me"))
    assert isinstance(move, Act)
    record = written(move)
    assert record.steps[0].proof == "bad" and "still in the boot" in record.steps[0].words


def test_one_rung_can_be_asked_for() -> None:
    node = host(bundle(smi=NEEDS_RESET), recover_rung="reboot")
    assert act(node).step == "reboot" and act(node).reboot is not None
    other = next_move(host(bundle(smi=NEEDS_RESET), recover_rung="restart-engine"), Trace("me"))
    assert isinstance(other, End) and other.failed


def test_a_stranger_on_the_gpus_keeps_them() -> None:
    end = next_move(host(bundle(smi=NEEDS_RESET, holders="9\ttrain\t/user.slice\n")), Trace("me"))
    assert isinstance(end, End) and "process 9 (train)" in end.failed


def test_a_reboot_may_be_forbidden() -> None:
    node = host(bundle(kernel=OFF_BUS), driver={"reboot": "never"})
    end = next_move(node, Trace("me"))
    assert isinstance(end, End) and "'never'" in end.failed


def test_the_main_job_is_told_before_anything_is_done() -> None:
    smi = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    node = host(bundle(smi=smi, smi_status="9", token="unit failed"))
    assert (role.first_rung(node), role.first_rung(host(bundle()))) == ("converge", "")


@pytest.mark.parametrize("text", ["", "not base64 !", base64.b64encode(b"no tar").decode()])
def test_evidence_that_did_not_come_over_is_no_reason_to_act(text: str) -> None:
    with pytest.raises(MetalserveError):
        next_move(host(text), Trace("me"))


def test_a_record_that_cannot_be_understood_is_left_alone() -> None:
    node = make_node(sections={BUNDLE: bundle(), RECORD_SECTION: "{}"}, files={RECORD: "{}"})
    with pytest.raises(MetalserveError, match="cannot be understood"):
        next_move(node, Trace("me"))
