"""The interactive profile: what it adds for which release, why, and what gives way to the settings."""

from __future__ import annotations

import pytest

from metalserve.catalogue.vllm_check import check_args
from metalserve.catalogue.vllm_flags import known_releases, load_flags
from metalserve.catalogue.vllm_profiles import load_profile
from metalserve.errors import MetalserveError
from metalserve.planning.known import known_model
from metalserve.planning.profile import Workload, against, profile_arguments
from tests.planning.conftest import Planning

LLAMA = known_model("Llama-3.3-70B-Instruct")


def words(release: str, workload: Workload | None = None) -> list[str]:
    return [" ".join(each) for each, _ in profile_arguments("interactive", load_flags(release), LLAMA, workload)]


def test_the_default_adds_nothing() -> None:
    assert profile_arguments("default", load_flags("0.33.0"), LLAMA) == []
    assert against("default", ["--enforce-eager"], load_flags("0.33.0")) == []


def test_each_release_gets_what_it_has_and_needs() -> None:
    common = ["--max-num-batched-tokens 2048", "--max-num-seqs 64"]
    assert words("0.33.0") == [*common, "--performance-mode interactivity"]
    assert words("0.14.0") == common
    assert words("0.11.2") == [*common, "--async-scheduling", "--enable-prefix-caching"]
    assert words("0.9.2") == [*common, "--enable-prefix-caching"]


@pytest.mark.parametrize("release", known_releases())
def test_every_release_accepts_its_profile(release: str) -> None:
    given = [word for each in words(release) for word in each.split()]
    assert [p for p in check_args(["/m", *given], release, entry="serve") if p.severity == "error"] == []


def test_concurrency_bounds_the_batch_and_the_chunk_holds_it() -> None:
    assert words("0.33.0", Workload(concurrency=8))[:2] == ["--max-num-batched-tokens 2048", "--max-num-seqs 8"]
    assert words("0.33.0", Workload(concurrency=2000))[:2] == ["--max-num-batched-tokens 4000", "--max-num-seqs 2000"]


def test_the_plan_says_why_and_extra_args_win(planning: Planning) -> None:
    plan = planning("8xH100-SXM", "Llama-3.3-70B-Instruct", profile="interactive")
    assert "--performance-mode" in plan.vllm_args
    assert any(
        reason.startswith("--max-num-batched-tokens 2048: a step handles at most 2048") for reason in plan.reasons
    )
    own = planning("8xH100-SXM", "Llama-3.3-70B-Instruct", profile="interactive",
                   extra_args=["--max_num_batched_tokens", "16384", "--enforce-eager"])  # fmt: skip
    assert own.vllm_args.count("--max-num-batched-tokens") == 0
    assert "--max_num_batched_tokens" in own.vllm_args
    said = " ".join(own.reasons)
    assert "works against the interactive profile: --enforce-eager" in said
    assert "works against the interactive profile: --max-num-batched-tokens" in said
    plain = planning("8xH100-SXM", "Llama-3.3-70B-Instruct")
    assert "--performance-mode" not in plain.vllm_args


def test_every_row_has_a_reason_and_a_source() -> None:
    profile = load_profile("interactive")
    for each in (*profile.arguments, *profile.avoid):
        assert len(each.reason) > 30 and len(each.source) > 10, each.flag
    assert all(when and source for _, when, source in profile.advice)
    with pytest.raises(MetalserveError, match="no profile 'fast'"):
        load_profile("fast")
