"""Lines that no sign knows and that resemble known ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.catalogue import known_lines as catalogue
from metalserve.catalogue.causes import load_causes
from metalserve.catalogue.known_lines import NOTHING, KnownLine, load_known_lines
from metalserve.catalogue.models import CatalogueError
from metalserve.recovery.evidence import Evidence
from metalserve.recovery.guessing import guessed
from metalserve.recovery.resembling import Resembling, known_lines
from metalserve.recovery.verdict import judge
from metalserve.recovery.words import in_words

LINES = load_known_lines()
FEW = Resembling(
    [
        KnownLine("kernel", "nic-driver", "ice 0000:3b:00.0: The package file was not found. Entering Safe Mode"),
        KnownLine("kernel", "drive-gone", "nvme nvme2: Removing after probe failure status: -19"),
        KnownLine("kernel", "drive-gone", "nvme nvme3: controller is down; will reset: CSTS=0xffffffff"),
        KnownLine("kernel", NOTHING, "nvme nvme2: failed to set APST feature (2)"),
        KnownLine("engine", "engine-died", "the engine core died of an unknown reason"),
    ]
)
SAFE_MODE = "[   11.9] ice 0000:17:00.1: package file ice-1.3.4.pkg was not found or cannot be read, safe mode entered"


def test_a_line_is_taken_for_what_the_nearest_ones_mean() -> None:
    like = FEW.ask(SAFE_MODE)
    assert like is not None and like.cause == "nic-driver" and 0.3 < like.score < 1
    assert like.line.startswith("ice 0000:3b:00.0")


@pytest.mark.parametrize(
    "line", ["nvme nvme7: Removing", "the a of to", "", "0x1f 0x2e 4711", "entirely other words stand here altogether"]
)
def test_what_says_too_little_or_only_new_words_is_like_nothing(line: str) -> None:
    assert FEW.ask(line) is None


def test_lines_of_engines_are_no_examples_for_a_host() -> None:
    assert FEW.ask("the engine core died of an unknown reason") is None


@pytest.mark.parametrize("stamp", ["", "[ 12.000000] ", "Nov 26 10:00:00 node7 kernel: [ 12.000000] ", "<4>[ 12.0] "])
def test_time_host_and_values_do_not_count(stamp: str) -> None:
    same = FEW.ask(f"{stamp}nvme nvme9: Removing after probe failure status: -5")
    assert same is not None and same.cause == "drive-gone" and same.score > 0.99


def test_what_healthy_hosts_print_is_a_word_against_a_guess() -> None:
    line = "[ 1.0] widget w0: failed to set the spin feature (8194)"
    bad = KnownLine("kernel", "drive-gone", "widget w1: failed to set a feature of the medium")
    good = KnownLine("kernel", NOTHING, "widget w2: failed to set spin feature")
    log, causes = Evidence(kernel=line), load_causes()
    assert [s.cause.id for s in guessed(log, causes, known=Resembling([bad]))] == ["drive-gone"]
    assert guessed(log, causes, known=Resembling([bad, good])) == []


def test_a_guess_names_the_line_that_it_goes_by() -> None:
    verdict = judge(Evidence(kernel="n1 opsd[7]: GPU riser board: retimer of riser board failed to train its lanes"))
    (found,) = verdict.causes
    assert found.guess and any("resembles `" in source or "words of" in source for source in found.sources)
    assert any("a guess" in line for line in in_words(verdict))


_WORDS = st.sampled_from(
    ["nvme", "nvme2", "failed", "removing", "safe", "mode", "package", "probe", "ice", "is", "down"]
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=300), st.lists(_WORDS, max_size=12).map(" ".join)))
def test_any_text_is_answered_and_a_score_is_a_share(text: str) -> None:
    like = FEW.ask(text)
    assert like is None or (0 < like.score <= 1 + 1e-9 and like.cause in {"nic-driver", "drive-gone", NOTHING})
    assert like == FEW.ask(text)


def test_words_that_mean_two_things_tell_nothing() -> None:
    """A machine check's status decides, and a status is a value."""
    both = [
        KnownLine("kernel", cause, "mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 7: be0000") for cause in "ab"
    ]
    like = Resembling([*both, KnownLine("kernel", "c", "mce: another line of machine checks")]).ask(
        "mce: [Hardware Error]: CPU 4: Machine Check: 0 Bank 1: fe0000"
    )
    assert like is not None and like.cause == NOTHING


def test_the_same_words_are_not_outvoted() -> None:
    down = [KnownLine("kernel", "pcie-lost", f"pciehp 0000:02:05.0: slot(6): {what} event") for what in
            ("Link Down", "Link Lost", "Card Lost", "Card Removed")]  # fmt: skip
    up = KnownLine("kernel", NOTHING, "pciehp 0000:02:05.0: slot(6): Link Up event")
    like = Resembling([*down, up]).ask("[ 5.9] pciehp 0000:40:01.0: slot(3): Link Up event")
    assert like is not None and (like.cause, like.line) == (NOTHING, up.text)


def test_a_known_line_is_found_again() -> None:
    """Its neighbours vote too, and may outvote it; of the many hardly any."""
    known = known_lines()
    asked = [(each, known.ask(each.text)) for each in LINES if each.log != "engine"]
    answered = [(each.cause, like.cause) for each, like in asked if like is not None]
    assert len(answered) > 0.9 * len(asked)
    assert sum(one == other for one, other in answered) > 0.9 * len(answered)


def test_known_lines_are_of_every_kind_and_short() -> None:
    assert {each.log for each in LINES} == {"kernel", "fabric", "engine", "bmc"}
    assert sum(each.cause == NOTHING for each in LINES) > 100
    assert [each.text for each in LINES if not each.text.strip() or len(each.text) > 800] == []


@pytest.mark.parametrize("text", ["kernel: {no-such-cause: [x]}", "kernel: [x]", "nowhere: {host-memory: [x]}"])
def test_a_damaged_file_is_refused(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("known") / "known_lines"
    place.mkdir()
    (place / "a.yaml").write_text(text)
    with pytest.raises(CatalogueError, match=r"known_lines/a\.yaml"):
        catalogue.read_known_lines(place)
