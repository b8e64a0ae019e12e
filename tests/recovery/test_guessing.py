"""What is guessed of lines that no sign knows, and that a guess does no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from metalserve.catalogue.causes import load_causes
from metalserve.catalogue.guesses import Guesses, load_guesses
from metalserve.recovery.bmc_values import BmcEvent, BmcEvidence
from metalserve.recovery.evidence import Evidence
from metalserve.recovery.guessing import HIGHEST, guessed, held_down, pair_of
from metalserve.recovery.look import see
from metalserve.recovery.reading import read_evidence
from metalserve.recovery.verdict import Verdict, judge
from metalserve.recovery.words import in_words

HERE = Path(__file__).parent
TABLE = load_guesses()
CAUSES = load_causes()
LINES: dict[str, list[str]] = yaml.safe_load((HERE / "guess_lines.yaml").read_text())
HARMLESS: dict[str, str] = {
    name: text
    for path in ("harmless.yaml", "harmless-kernel.yaml")
    for name, text in yaml.safe_load((HERE / path).read_text()).items()
}
UNKNOWN = "Nov 26 10:00:00 n1 gpu-monitor[7]: GPU 0000:5d:00.0 is missing, 7 left"
XID = "[ 12.0] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus."


def counting(verdict: Verdict) -> list[tuple[str, str, bool]]:
    return [(c.id, c.rung, c.guess) for c in verdict.causes if not c.explained_by and not c.past]


@pytest.mark.parametrize("rank", range(len(TABLE.pairs)), ids=[f"{pair.who}-{pair.what[0]}" for pair in TABLE.pairs])
def test_every_pair_has_an_example_that_it_fits(rank: int) -> None:
    assert pair_of(TABLE.pairs[rank].line, TABLE) == rank


def test_every_component_and_outcome_is_of_use_and_fits_no_empty_line() -> None:
    assert {pair.who for pair in TABLE.pairs} == {each.name for each in TABLE.components}
    used = {what for pair in TABLE.pairs for what in pair.what}
    assert {each.name for each in TABLE.outcomes} - used == set()
    assert not any(each.compiled.search("") for each in (*TABLE.components, *TABLE.outcomes))


@pytest.mark.parametrize(
    "wrong",
    [
        {"cause": "no-such-cause"}, {"who": "nobody"}, {"what": ["nothing known"]},
        {"who": TABLE.pairs[1].who, "what": list(TABLE.pairs[1].what)},
    ],
)  # fmt: skip
def test_a_table_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    data = TABLE.model_dump()
    data["pairs"] = [{**data["pairs"][0], **wrong}, *data["pairs"][1:]]
    with pytest.raises(ValidationError):
        Guesses.model_validate(data)


@pytest.mark.parametrize(
    ("cause", "line"), [(cause, line) for cause, lines in LINES.items() for line in lines], ids=lambda x: str(x)[:60]
)
def test_lines_of_daemons_are_taken_for_what_they_are_about(cause: str, line: str) -> None:
    rank = pair_of(line, TABLE)
    assert (TABLE.pairs[rank].cause if rank is not None else "nothing") == cause


@pytest.mark.parametrize("name", [name for name in sorted(HARMLESS) if not name.startswith("engine")])
def test_what_healthy_hosts_say_makes_no_guess(name: str) -> None:
    log = name.partition(" ")[0]
    evidence = Evidence(fabric=HARMLESS[name]) if log == "fabric" else Evidence(kernel=HARMLESS[name])
    assert [(suspect.cause.id, suspect.line) for suspect in guessed(evidence, CAUSES)] == []


def test_where_no_sign_knows_anything_there_is_a_guess_and_it_says_so() -> None:
    verdict = judge(Evidence(kernel=UNKNOWN))
    assert counting(verdict) == [("gpu-off-bus", "nothing", True)]
    (found,) = verdict.causes
    assert (found.confidence, found.lines, verdict.rung, verdict.needs_person) == ("low", (UNKNOWN,), "nothing", True)
    assert verdict.as_dict()["causes"][0]["guess"] is True
    words = "\n".join(in_words(verdict))
    assert "only a guess is left" in words and "a guess: no sign knows these lines" in words
    assert UNKNOWN in words and "if it is so, the step is `reboot`" in words


def test_a_light_step_of_a_guess_is_told_with_its_doubt() -> None:
    line = "n1 collector[7]: nv-fabricmanager stopped responding"
    verdict = judge(Evidence(kernel=line))
    assert counting(verdict) == [("fabric-down", "restart-services", True)] and verdict.rung == "restart-services"
    assert in_words(verdict)[0].startswith(
        "verdict: no sign knows what is wrong, only a guess is left: perhaps restart-"
    )


def test_a_line_that_the_guess_is_made_of_is_not_listed_twice() -> None:
    line = "[ 12.0] NVRM: nvlink 4: something new failed"
    verdict = judge(Evidence(kernel=line))
    assert (counting(verdict)[0][0], verdict.unread) == ("nvlink-fault", (line,))
    words = in_words(verdict)
    assert sum(line in each for each in words) == 1 and not any("were not understood" in each for each in words)


def test_a_sign_leaves_no_room_for_a_guess() -> None:
    assert all(not guess for _, _, guess in counting(judge(Evidence(kernel=f"{UNKNOWN}\n{XID}"))))
    silent = judge(Evidence(kernel=UNKNOWN, silent_engines=("engine 0",)))
    assert [cause.id for cause in silent.causes] == ["engine-hang"]


def test_what_the_boot_before_ended_with_leaves_room_for_one() -> None:
    verdict = judge(Evidence(kernel=UNKNOWN, earlier=XID))
    assert [(c.id, c.past, c.guess) for c in verdict.causes] == [
        ("gpu-off-bus", False, True),
        ("gpu-off-bus", True, False),
    ]


def test_a_line_that_a_sign_weighed_and_let_go_makes_no_guess() -> None:
    """A later line says that the link is up again."""
    known = "mlx5_core 0000:17:00.0 ens1: Link down"
    again = "mlx5_core 0000:17:00.0 ens1: Link up"
    assert counting(judge(Evidence(kernel=f"[ 1.0] {known}"))) == [("nic-link-down", "nothing", False)]
    assert counting(judge(Evidence(kernel=f"[ 1.0] {known}\n[ 2.0] {again}"))) == []


def test_what_is_over_makes_no_guess_until_it_comes_again() -> None:
    down, up = "n1 bonder: bond0: link of enp65s0 is lost, no carrier", "n1 bonder: bond0: enp65s0 is up"
    assert [s.cause.id for s in guessed(Evidence(kernel=down), CAUSES)] == ["nic-link-down"]
    assert guessed(Evidence(kernel=f"{down}\n{up}"), CAUSES) == []
    assert len(guessed(Evidence(kernel=f"{down}\n{up}\n{down}"), CAUSES)) == 1


def test_the_pair_that_stands_first_is_shown_and_each_form_of_its_lines_once() -> None:
    text = f"n1 x: FAN4 stopped\n{UNKNOWN}\n{UNKNOWN.replace('5d', '9d')}\n{UNKNOWN} since noon"
    found = guessed(Evidence(kernel=text), CAUSES)
    assert [suspect.line for suspect in found] == [UNKNOWN, f"{UNKNOWN} since noon"]


def test_events_of_a_bmc_and_lines_of_fabric_manager_are_read_too() -> None:
    event = BmcEvent(None, "Warning", "GPU riser 3: PCIe device disappeared", "", "")
    fine = BmcEvent(None, "OK", "FAN4 stopped", "", "")
    bmc = BmcEvidence(power="on", events=(fine, event), bad=(), simulated=False, missed=(), alone=False)
    assert [s.cause.id for s in guessed(Evidence(bmc=bmc), CAUSES)] == ["gpu-off-bus"]
    line = "[tid 3] fabric manager: only 3 of 4 switches were discovered"
    assert [s.cause.id for s in guessed(Evidence(fabric=line), CAUSES)] == ["fabric-topology"]


def test_a_text_of_which_nothing_else_is_known_is_read_for_its_words(tmp_path: Path) -> None:
    path = tmp_path / "daemons"
    path.write_text("Nov 26 10:00:00 n1 arraywatch[9]: disk bay 3: drive removed unexpectedly\n")
    assert counting(judge(read_evidence([str(path)]))) == [("drive-gone", "nothing", True)]


def test_what_tools_list_is_no_log() -> None:
    tables = """
    <clocks_event_reason_hw_thermal_slowdown>Not Active</clocks_event_reason_hw_thermal_slowdown>
        Array State : AA ('A' == active, '.' == missing, 'R' == replacing)
           2     254        2        1      faulty sync writemostly failfast   /dev/vda2
    sda               8:0    0   20G  0 disk            sda failed
    | GPU  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncorr. ECC |
        UESta:  DLP- SDES- TLP- FCP- CmpltTO- CmpltAbrt- UnxCmplt- RxOF- MalfTLP- ECRC- UnsupReq-
        PCIe fatal=1
    """
    assert guessed(Evidence(kernel=tables), CAUSES) == []
    line = "[ 12.0] PCIe slot 4: fatal error"
    assert [s.line for s in guessed(Evidence(kernel=f"{tables}\n{line}"), CAUSES)] == [line]
    assert [s.line for s in guessed(Evidence(kernel="PCIe fatal=1"), CAUSES)] == ["PCIe fatal=1"], (
        "picked out by somebody"
    )


def test_recover_judges_without_guesses() -> None:
    """What a look says may be followed by a step."""
    seen = see({"manifest.tsv": "kernel.log\t0\n", "kernel.log": UNKNOWN})
    assert (seen.verdict.causes, seen.verdict.rung) == ((), "nothing")
    assert counting(judge(Evidence(kernel=UNKNOWN), guess=False)) == []


@pytest.mark.parametrize("pair", TABLE.pairs, ids=lambda pair: f"{pair.who}-{pair.what[0]}")
def test_no_pair_asks_for_a_heavy_step(pair: Any) -> None:
    cause = held_down(pair.cause, CAUSES)
    assert CAUSES.height(cause.rung) <= CAUSES.height(HIGHEST) < CAUSES.height("reset-gpu")
    assert (cause.confidence, cause.person) == ("low", True)


_WORDS = st.sampled_from(
    ["GPU", "nvme0n1", "NVLink", "fatal", "uncorrected", "failed", "timed out", "is", "gone", "md0", "power supply",
     "DIMM", "panic", "nfs", "corrupt", "below", "fan 3", "no space left", "mlx5_core", "degraded", "GSP", "12",
     "recovered"]
)  # fmt: skip
_TEXTS = st.lists(st.lists(_WORDS, min_size=1, max_size=6).map(" ".join), max_size=12).map("\n".join)


@settings(max_examples=150, deadline=None)
@given(_TEXTS)
def test_a_guess_alone_never_asks_for_a_heavy_step(text: str) -> None:
    verdict = judge(Evidence(kernel=text))
    if any(guess for _, _, guess in counting(verdict)):
        assert len(counting(verdict)) == 1
        assert CAUSES.height(verdict.rung) <= CAUSES.height(HIGHEST) and verdict.needs_person
    without = judge(Evidence(kernel=text), guess=False)
    assert [c for c in verdict.causes if not c.guess] == list(without.causes)


@settings(max_examples=80, deadline=None)
@given(_TEXTS)
def test_with_a_sign_there_is_no_guess_whatever_else_is_said(text: str) -> None:
    verdict = judge(Evidence(kernel=f"{text}\n{XID}"))
    assert not any(cause.guess for cause in verdict.causes)
    assert verdict == judge(Evidence(kernel=f"{text}\n{XID}"), guess=False)
