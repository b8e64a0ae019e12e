"""What is sent: lengths, shared fronts, sessions, a user's file."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import pytest

from metalserve.benching.workloads import Request, Sizing, read_jsonl, repeated, requests_of
from metalserve.catalogue.workloads import load_workloads
from metalserve.errors import MetalserveError


def first(name: str, count: int = 400, sizing: Sizing | None = None, seed: int = 1) -> list[Request]:
    return list(itertools.islice(requests_of(load_workloads()[name], sizing or Sizing(), seed), count))


def words(request: Request) -> int:
    assert isinstance(request.prompt, str)
    return len(request.prompt.split())


@pytest.mark.parametrize("name", ["chat", "code", "rag"])
def test_lengths_are_those_of_the_catalogue(name: str) -> None:
    shape, found = load_workloads()[name], first(name)
    assert statistics.median(map(words, found)) == pytest.approx(shape.prompt, rel=0.1)
    assert statistics.median(r.max_tokens for r in found) == pytest.approx(shape.answer, rel=0.15)
    assert shape.source and len({r.session for r in found}) == 400


def test_a_tokenizer_that_splits_words_gets_fewer_of_them() -> None:
    found = first("chat", sizing=Sizing(tokens_per_word=2.0, prompt=500, answer=40))
    assert statistics.median(map(words, found)) == pytest.approx(250, rel=0.12)
    assert statistics.median(r.max_tokens for r in found) == pytest.approx(40, rel=0.2)


def test_documents_are_shared_and_what_follows_is_not() -> None:
    found = first("rag", 60)
    fronts = {" ".join(str(r.prompt).split()[:6000]) for r in found}
    assert 2 <= len(fronts) <= 8
    assert len({r.prompt for r in found}) == 60


def test_an_agents_turn_holds_all_before_it() -> None:
    found = first("agent", 40)
    pairs = [(a, b) for a, b in itertools.pairwise(found) if a.session == b.session]
    assert len(pairs) > 20
    assert all(str(b.prompt).startswith(str(a.prompt)) and words(b) > words(a) for a, b in pairs)


@pytest.mark.parametrize("context", [64, 512, 4096, 32768])
@pytest.mark.parametrize("name", list(load_workloads()))
def test_no_request_is_longer_than_the_context(name: str, context: int) -> None:
    found = first(name, 100, Sizing(context=context))
    assert all(words(r) + r.max_tokens <= context and r.max_tokens >= 1 for r in found)


def test_the_same_seed_sends_the_same_texts() -> None:
    assert first("chat", 20) == first("chat", 20) != first("chat", 20, seed=2)


def test_a_users_file_is_sent_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a", "max_tokens": 7}\n\n{"messages": [{"role": "user", "content": "b"}]}\n')
    found = list(itertools.islice(repeated(read_jsonl(path, 99)), 4))
    assert [r.max_tokens for r in found] == [7, 99, 7, 99] and [r.session for r in found] == [0, 1, 2, 3]
    assert found[1].prompt == ({"role": "user", "content": "b"},)


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "line 1: is no JSON"), ("[]", "no JSON object"), ('{"prompt": ""}', "needs `prompt`"),
     ('{"prompt": "a", "max_tokens": 0}', "max_tokens"), ('{"messages": [{"role": 1}]}', "needs `prompt`"),
     ("", "no request")],
)  # fmt: skip
def test_a_file_that_is_none_is_refused_by_its_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(MetalserveError, match=said):
        read_jsonl(path)
