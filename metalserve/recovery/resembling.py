"""Which known line a line resembles most: by the words that they share, weighed by how rare those are. Pure.

The nearest neighbours of a line among the known ones (cosine of words and pairs of words, weighed by the inverse
document frequency) vote for its cause; lines that healthy hosts print vote that it is none.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

from metalserve.catalogue.known_lines import NOTHING, KnownLine, load_known_lines

_LOOKED_AT: Final = 400
"""Characters of a line whose words count: what comes behind them is an argument more often than a message."""
_STEM: Final = 6
"""Letters of a word that count, so that `disconnected` is `disconnect`. With 4 to 20 the answers hardly differ."""
_VOTERS: Final = 5
"""Known lines that vote. With 3 to 9 the answers hardly differ; a single one is wrong more often."""
_SAME: Final = 0.9
"""How near a known line is whose words are the same: it is not outvoted by others that are like it."""
_PAIR: Final = 0.5
"""What two words in a row weigh, of what their rarity gives."""
_FEWEST: Final = 3
"""Words that a line must have: fewer tell nothing."""
_STAMP: Final = re.compile(
    r"^(?:<\d+>)?\s*(?:\[[\w :.+-]{8,40}\d\d:\d\d[\w :.+-]{0,20}\] *)?"
    r"(?:(?:\w{3},? +)?(?:(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +\d{1,2} +|\d{4}-\d\d-\d\d[T ,] *)"
    r"\d\d:\d\d:\d\d\S* +(?:\S+ +)?)?"
    r"(?:\[[ \d.+]+\] *)*(?:kernel: *)?(?:\[[ \d.+T]+\] *)*"
)
_HEX: Final = re.compile(r"0x[0-9a-f]+", re.IGNORECASE)
_HUMP: Final = re.compile(r"([a-z])([A-Z])")
_WORD: Final = re.compile(r"[a-z]{2,}")
_VALUE: Final = re.compile(r"[a-f]{2,4}")
_IDLE: Final = frozenset(
    ("an", "and", "are", "as", "at", "be", "been", "by", "for", "from", "has", "have", "in", "is", "it", "its", "of",
     "on", "or", "that", "the", "this", "to", "was", "will", "with")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resemblance:
    """What a line is taken for by the known lines.

    Attributes:
        cause: id of the catalogue, or NOTHING.
        score: 0 to 1: how near the nearest line of that cause is, times the share of the votes that the cause has.
        line: that nearest line.
    """

    cause: str
    score: float
    line: str


class Resembling:
    """Known lines, ready to be asked.

    Args:
        lines: with their causes; those of engines are left out.
    """

    def __init__(self, lines: Iterable[KnownLine]) -> None:
        meant: dict[frozenset[str], dict[str, str]] = defaultdict(dict)
        for each in lines:
            if each.log != "engine":
                meant[frozenset(words_of(each.text))].setdefault(each.cause, each.text)
        known = {
            # the same words with two meanings: the values decide, which are read by signs alone
            words: next(iter(each.items())) if len(each) == 1 else (NOTHING, next(iter(each.values())))
            for words, each in meant.items()
            if len(words) > 1
        }
        self._lines = tuple(known.values())
        often = Counter(word for words in known for word in words)
        self._unseen = math.log(len(known) + 1)
        self._rarity = {word: math.log((len(known) + 1) / times) for word, times in often.items()}
        self._where: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, words in enumerate(known):
            for word, weight in self._weighed(words).items():
                self._where[word].append((number, weight))

    def ask(self, line: str) -> Resemblance | None:
        """Return what a line is taken for; None when it says too little, or nothing in words that are known."""
        words = frozenset(words_of(line))
        if sum(" " not in word for word in words) < _FEWEST:
            return None
        near: dict[int, float] = defaultdict(float)
        for word, weight in self._weighed(words).items():
            for number, other in self._where.get(word, ()):
                near[number] += weight * other
        voters = sorted(near.items(), key=lambda each: (-each[1], each[0]))[:_VOTERS]
        if voters and voters[0][1] >= _SAME:
            voters = voters[:1]
        votes: dict[str, float] = defaultdict(float)
        for number, cosine in voters:
            votes[self._lines[number][0]] += cosine * cosine
        if not votes:
            return None
        cause = max(votes, key=lambda each: votes[each])
        number, cosine = next(each for each in voters if self._lines[each[0]][0] == cause)
        return Resemblance(cause, cosine * votes[cause] / sum(votes.values()), self._lines[number][1])

    def _weighed(self, words: Iterable[str]) -> dict[str, float]:
        weights = {word: self._rarity.get(word, self._unseen) * (_PAIR if " " in word else 1.0) for word in words}
        length = math.sqrt(sum(weight * weight for weight in weights.values()))
        return {word: weight / length for word, weight in weights.items()}


@cache
def known_lines() -> Resembling:
    """Return the catalogue's known lines, ready to be asked."""
    return Resembling(load_known_lines())


def words_of(line: str) -> list[str]:
    """Return the words of a line, cut to their stems, and each two in a row; values, time and host left out."""
    text = _HEX.sub(" ", _STAMP.sub("", line, count=1)[:_LOOKED_AT])
    words = [
        word[:_STEM]
        for word in _WORD.findall(_HUMP.sub(r"\1 \2", text).lower())
        if word not in _IDLE and not _VALUE.fullmatch(word)
    ]
    return words + [f"{one} {two}" for one, two in pairwise(words)]
