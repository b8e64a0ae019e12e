"""Verdicts: a table decided by hand, every Xid of the catalogue, the order of authority, and what never happens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metalserve.catalogue.causes import CauseCatalogue, load_causes
from metalserve.catalogue.loader import load_xids
from metalserve.hardware.node import NodeHardware
from metalserve.hardware.values import Gpu, GpuDetails
from metalserve.paths import ROOT
from metalserve.recovery.evidence import Evidence
from metalserve.recovery.verdict import Verdict, judge
from metalserve.recovery.words import in_words

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "cases.yaml").read_text())
GPU = "0000:09:00.0"


def evidence_of(case: dict[str, Any]) -> Evidence:
    return Evidence(
        kernel=case.get("kernel"),
        earlier=case.get("earlier"),
        fabric=case.get("fabric"),
        engines={"engine 0": case["engine"]} if "engine" in case else {},
        silent_engines=tuple(case.get("silent", ())),
    )


def alone(verdict: Verdict) -> set[str]:
    return {cause.id for cause in verdict.causes if not cause.explained_by and not cause.past}


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_table(case: dict[str, Any]) -> None:
    verdict = judge(evidence_of(case))
    assert alone(verdict) == set(case["causes"])
    assert {cause.id for cause in verdict.causes if cause.explained_by} == set(case.get("explained", ()))
    assert {cause.id for cause in verdict.causes if cause.past} == set(case.get("past", ()))
    assert verdict.rung == case["rung"]
    if "person" in case:
        assert verdict.needs_person is case["person"]
    if "subjects" in case:
        assert {s for cause in verdict.causes if not cause.explained_by for s in cause.subjects} == set(
            case["subjects"]
        )
    said = " ".join(d for cause in verdict.causes for d in cause.disagreements)
    for rung in case.get("differs", ()):
        assert rung in said


def test_the_table_uses_every_sign() -> None:
    """A sign that no case shows may match nothing, or everything."""
    unseen = [yaml.safe_load(path.read_text()) for path in (Path(__file__).parent / "heldout").glob("cases*.yaml")]
    others = [text for cases in unseen for case in cases for text in case["logs"].values()]
    logs = {
        "kernel": [case.get(k, "") for case in CASES for k in ("kernel", "earlier")] + others,
        "fabric": [case.get("fabric", "") for case in CASES] + others,
        "engine": [case.get("engine", "") for case in CASES] + others,
    }
    lines = yaml.safe_load((ROOT / "metalserve" / "catalogue" / "known_lines" / "signs.yaml").read_text())
    for log, causes in lines.items():
        logs[log] += [line for each in causes.values() for line in each]
    logs["kernel"] += [each["kernel"] for each in yaml.safe_load((Path(__file__).parent / "traces.yaml").read_text())]
    seen = {log: "\n".join(texts) for log, texts in logs.items()}
    signs = [sign for sign in load_causes().signs if sign.log != "bmc"]  # those are shown in test_bmc_evidence.py
    causes = {sign.cause for sign in signs}
    shown = {sign.cause for sign in signs if sign.compiled.search(seen[sign.log])}
    assert causes - shown == set(), "give each cause a case"


OF_THE_BUCKET = {  # NVIDIA's immediate action, for an Xid that stands alone in the log
    "IGNORE": "nothing",
    "RESTART_APP": "restart-engine",
    "RESET_GPU": "reset-gpu",
    "RESTART_BM": "reboot",
    "RESTART_VM": "reboot",
    "UPDATE_SWFW": "converge",
    "CHECK_MECHANICALS": "quarantine",
    "CHECK_UVM": "reload-driver",
    "CONTACT_SUPPORT": "nothing",
    "WORKFLOW_XID_45": "nothing",
    "WORKFLOW_XID_48": "reset-gpu",
    "WORKFLOW_NVLINK_ERR": "reset-gpu",
    "WORKFLOW_NVLINK5_ERR": "reset-gpu",  # no word of "Nonfatal": taken as fatal
    "XID_154": "quarantine",  # the line names no action: nothing may be done to the GPU by guess
}
OTHER_RUNG = {  # where NVIDIA's bucket is not what is done, and for numbers it names no action for
    61: "reboot",  # DeepSeek's practice (leptonai/gpud#100); NVIDIA only says to ask support
    63: "reset-gpu",  # the row is replaced at the next reset, which may wait
    64: "quarantine",  # A100 memory guide: after a failed remap the GPU goes to the field diagnostic
    167: "reboot",
    169: "reset-gpu",
    173: "quarantine",
    175: "quarantine",
}


@pytest.mark.parametrize("code", [xid.code for xid in load_xids().xids])
def test_every_xid_asks_for_the_rung_that_nvidia_names_on_the_tables_authority(code: int) -> None:
    known = load_xids().by_code(code)
    assert known is not None
    verdict = judge(Evidence(kernel=f"NVRM: Xid (PCI:0000:09:00): {code}, pid=1, name=python, something"))
    wanted = OTHER_RUNG.get(code) or (OF_THE_BUCKET[known.nvidia[0]] if known.nvidia else "nothing")
    assert [(cause.authority, cause.rung) for cause in verdict.causes] == [("the Xid table", wanted)]
    assert verdict.rung == wanted


@pytest.mark.parametrize("code", [xid.code for xid in load_xids().xids])
def test_every_xid_has_a_cause_as_heavy_as_its_severity(code: int) -> None:
    verdict = judge(Evidence(kernel=f"NVRM: Xid (PCI:0000:09:00): {code}, pid=1, name=python, something"))
    known = load_xids().by_code(code)
    assert known is not None
    (cause,) = verdict.causes
    assert cause.subjects == (GPU,)
    height = load_causes().height
    if known.severity == "fatal":
        assert height(verdict.rung) >= height("reset-gpu")
    if known.severity in ("app", "info", "warning"):
        assert height(verdict.rung) <= height("reboot"), "no power cycle, no quarantine for what is not fatal"
    if known.severity in ("app", "info"):
        assert height(verdict.rung) <= height("reset-gpu"), "no reboot for a program's fault"


def with_gpu(kernel: str | None = None, **values: Any) -> Evidence:
    gpu = replace(Gpu(0, pci=GPU), **values)
    return Evidence(kernel=kernel, hardware=NodeHardware(gpus=(gpu,), smi_state="ok"))


XID_119 = "NVRM: Xid (PCI:0000:09:00): 119, pid=1, name=python, Timeout waiting for RPC from GSP1!"
XID_154 = "NVRM: Xid (PCI:0000:09:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"


def test_the_drivers_own_action_is_asked_first_and_the_others_are_shown() -> None:
    verdict = judge(with_gpu(f"{XID_119}\n{XID_154}", recovery_action="Drain and Reset"))
    (cause,) = verdict.causes
    assert (cause.id, cause.authority, verdict.rung) == ("reset-asked", "the driver's recovery action", "reset-gpu")
    assert cause.disagreements == (f"{GPU}: Xid 154 would have: reboot (the driver asks for a reboot)",)


def test_a_driver_that_asks_for_nothing_overrules_the_table_and_says_so() -> None:
    verdict = judge(with_gpu(XID_119, recovery_action="None"))
    (cause,) = verdict.causes
    assert (cause.id, verdict.rung) == ("gpu-well", "nothing")
    assert "reset-gpu" in cause.disagreements[0]


def test_a_reset_that_a_line_asked_for_is_not_asked_for_again_when_the_driver_asks_for_nothing() -> None:
    line = "NVRM: nvAssertOkFailedNoLog: Assertion failed: Reset required [NV_ERR_RESET_REQUIRED] (0x00000062)"
    assert judge(Evidence(kernel=line)).rung == "reset-gpu"
    assert judge(with_gpu(line, recovery_action="None")).rung == "nothing"
    assert judge(with_gpu(line, recovery_action=None)).rung == "reset-gpu", "not printed: nobody knows better"


def test_a_memory_error_in_the_engine_is_what_the_driver_says_it_is() -> None:
    engine = {"engine 0": "RuntimeError: CUDA error: uncorrectable ECC error encountered"}
    contained = (
        "NVRM: Xid (PCI:0000:01:00): 94, pid=7, name=python, Contained: CE User Channel (0x9). RST: No, D-RST: No"
    )
    assert judge(Evidence(engines=engine)).rung == "reset-gpu"
    verdict = judge(Evidence(kernel=contained, engines=engine))
    assert (verdict.rung, alone(verdict)) == ("restart-engine", {"program-fault"})


def test_a_well_gpu_does_not_excuse_the_program_that_it_stopped() -> None:
    line = "NVRM: Xid (PCI:0000:09:00): 31, pid=1, name=python, MMU Fault"
    assert judge(with_gpu(line, recovery_action="None")).rung == "restart-engine"


RESET_SINCE = "NVRM: Xid (PCI:0000:09:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"
GONE = "NVRM: Xid (PCI:0000:09:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


def test_a_gpu_that_was_reset_and_later_falls_off_the_bus_is_not_well() -> None:
    others = NodeHardware(gpus=(Gpu(0, pci="0000:0a:00.0", recovery_action="None"),), smi_state="ok")
    for hardware in (others, None):
        verdict = judge(Evidence(kernel=f"{XID_119}\n{RESET_SINCE}\n{GONE}", hardware=hardware))
        assert (verdict.rung, alone(verdict)) == ("reboot", {"gpu-off-bus"})
    assert judge(Evidence(kernel=f"{XID_119}\n{RESET_SINCE}")).rung == "nothing", "what was before it is dealt with"


@pytest.mark.parametrize("action", ["N/A", "[N/A]", None])
def test_an_action_that_the_driver_does_not_print_has_no_say(action: str | None) -> None:
    assert judge(with_gpu(XID_154, recovery_action=action)).rung == "reboot"


@pytest.mark.parametrize(
    ("code", "words", "rung"),
    [("0x2", "Some Future Name", "reboot"), ("0x1", "PF FLR", "reset-gpu"), ("0x63", "Some Future Name", "quarantine")],
)
def test_an_action_by_another_name_is_known_by_its_number(code: str, words: str, rung: str) -> None:
    line = f"NVRM: Xid (PCI:0000:09:00): 154, GPU recovery action changed from 0x0 (None) to {code} ({words})"
    assert judge(Evidence(kernel=line)).rung == rung


def test_an_action_of_the_future_is_not_ignored() -> None:
    verdict = judge(with_gpu(recovery_action="Replace Board"))
    assert (verdict.rung, verdict.causes[0].id, verdict.needs_person) == ("quarantine", "unknown-action", True)


@pytest.mark.parametrize(
    ("values", "cause", "rung"),
    [
        ({"remapped_pending": True}, "remap-pending", "reset-gpu"),
        ({"remapped_failure": True}, "remap-failed", "quarantine"),
        ({"sram_threshold_exceeded": True}, "sram-threshold", "quarantine"),
        ({"details": GpuDetails(unrepairable_memory=True)}, "memory-unrepairable", "quarantine"),
        ({"details": GpuDetails(channel_repair_pending=True)}, "remap-pending", "reset-gpu"),
        ({"remapped_pending": False, "remapped_failure": None}, None, "nothing"),
    ],
)
def test_what_the_memory_says(values: dict[str, Any], cause: str | None, rung: str) -> None:
    verdict = judge(with_gpu(recovery_action="None", **values))
    assert [each.id for each in verdict.causes] == ([cause] if cause else [])
    assert verdict.rung == rung


def test_a_spent_gpu_stays_out_whatever_else_needs_a_reset() -> None:
    verdict = judge(with_gpu(XID_119, recovery_action="GPU Reset Required", remapped_failure=True))
    assert (verdict.rung, verdict.needs_person) == ("quarantine", True)


def test_what_could_not_be_had_is_carried_to_the_words() -> None:
    assert "the BMC" in "\n".join(in_words(judge(Evidence(lacking=("the BMC",)))))


def test_words_say_the_step_what_it_costs_and_why() -> None:
    words = "\n".join(in_words(judge(Evidence(kernel=XID_154))))
    assert words.startswith("verdict: reboot: reboot the host (lost by it: requests in flight")
    assert "Node Reboot Required" in words


LINES = st.sampled_from([line for case in CASES for line in (case.get("kernel") or "").splitlines()])


@given(st.lists(LINES, max_size=12))
def test_more_lines_never_hide_a_gpu_that_is_gone(lines: list[str]) -> None:
    gone = "NVRM: Xid (PCI:0000:f9:00): 79, pid=0, GPU has fallen off the bus."
    verdict = judge(Evidence(kernel="\n".join([*lines, gone])))
    height = load_causes().height
    assert height(verdict.rung) >= height("reboot")
    assert any("0000:f9:00.0" in cause.subjects for cause in verdict.causes)


@given(st.lists(LINES, max_size=12), st.integers(2, 40))
def test_a_line_that_is_repeated_changes_no_verdict(lines: list[str], times: int) -> None:
    once = judge(Evidence(kernel="\n".join(lines)))
    many = judge(Evidence(kernel="\n".join(line for line in lines for _ in range(times))))
    assert (once.rung, once.needs_person, alone(once)) == (many.rung, many.needs_person, alone(many))
    assert all(len(cause.lines) <= 40 for cause in many.causes)


@given(st.text(max_size=300), st.text(max_size=300))
def test_nothing_that_is_pasted_makes_it_fail(kernel: str, engine: str) -> None:
    verdict = judge(Evidence(kernel=kernel, fabric=engine, engines={"engine 0": engine}))
    assert isinstance(in_words(verdict), list)


def test_a_catalogue_that_names_what_it_does_not_have_is_refused() -> None:
    data = load_causes().model_dump()
    data["xids"] = {79: "no-such-cause"}
    with pytest.raises(ValueError, match="no-such-cause"):
        CauseCatalogue.model_validate(data)


ACTIONS = st.sampled_from(sorted(load_causes().recovery_actions))


@given(ACTIONS, st.lists(LINES, max_size=8), st.lists(st.text(max_size=40), max_size=3))
def test_more_evidence_never_lowers_what_the_driver_asks_for(action: str, lines: list[str], noise: list[str]) -> None:
    """The driver's own word is the highest authority: nothing beside it makes the step smaller."""
    catalogue = load_causes()
    asked = catalogue.cause(catalogue.recovery_actions[action])
    verdict = judge(with_gpu("\n".join([*lines, *noise]), recovery_action=action))
    if asked.confidence != "low":
        assert catalogue.height(verdict.rung) >= catalogue.height(asked.rung)
    mine = [c for c in verdict.causes if c.authority == "the driver's recovery action" and GPU in c.subjects]
    assert asked.rung == "nothing" or [c.id for c in mine] == [asked.id]


@given(st.sampled_from(["0x1 (GPU Reset Required)", "0x2 (Node Reboot Required)"]), st.lists(LINES, max_size=8))
def test_more_xids_never_lower_what_xid_154_asks_for(action: str, lines: list[str]) -> None:
    others = [line for line in lines if "0000:09:00" not in line]
    asks = f"NVRM: Xid (PCI:0000:09:00): 154, GPU recovery action changed from 0x0 (None) to {action}"
    height = load_causes().height
    for place in range(len(others) + 1):
        verdict = judge(Evidence(kernel="\n".join([*others[:place], asks, *others[place:]])))
        assert height(verdict.rung) >= height("reset-gpu" if "Reset" in action else "reboot")
