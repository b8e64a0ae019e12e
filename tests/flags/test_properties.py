"""Whatever is pasted: the corrected command passes the check and stays as it is, and no secret is ever repeated."""

from __future__ import annotations

import json
import shlex

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metalserve.catalogue.vllm_flags import load_flags
from metalserve.flags.check import check_text

SECRET = "Zq7SECRETvalue9x"
NAMES = [
    *sorted(load_flags("0.33.0").by_name),
    "--swap-space", "--task", "--cuda-graph-sizes", "--guided-decoding-backend", "--num-scheduler-steps", "--prot",
    "--tensor-paralel-size", "--xyzzy", "--enab", "--max-num", "--disable-log-request",
]  # fmt: skip
VALUES = [
    "1", "0.5", "abc", "auto", "8k", "1.5K", "{}", '{"a": 1}', "{'a': 1}", "{a:b}", "None", "-1", "fp8", "half", "90%",
    "65,536", "true", "false", "/models/x", "org/model", "$PORT", SECRET, f"hf_{SECRET}", "a b", "",
]  # fmt: skip
DOCKER = [
    "--gpus all", "--gpus 1", "--ipc=host", "--shm-size 1g", "--rm", "--restart always", "--privileged", "-d", "-it",
    "-p 8000:8000", "-p 80:9000", "--network host", f"-e HF_TOKEN={SECRET}", f"--env VLLM_API_KEY={SECRET}",
    f"-eHUGGING_FACE_HUB_TOKEN={SECRET}", "-e VLLM_USE_V1=1", "-e VLLM_SERVER_DEV_MODE=x", "-v /models:/models",
    "--env-file f", "--name x", f"-e OPENAI_API_KEY={SECRET}", "--runtime nvidia", "--init", "--weird 1",
]  # fmt: skip
HEADS = ["", "vllm serve", "python3 -m vllm.entrypoints.openai.api_server", f"HF_TOKEN={SECRET} vllm serve",
         f"export HF_TOKEN={SECRET}\nvllm serve", "sudo nohup vllm serve"]  # fmt: skip


@st.composite
def commands(draw: st.DrawFn) -> str:
    if draw(st.booleans()):
        options = draw(st.lists(st.sampled_from(DOCKER), max_size=6))
        image = draw(st.sampled_from(["vllm/vllm-openai:latest", "vllm/vllm-openai:v0.33.0", "own/image:1"]))
        head = " ".join(["docker run", *options, image, draw(st.sampled_from(["", "vllm serve"]))])
    else:
        head = draw(st.sampled_from(HEADS))
    words: list[str] = []
    if draw(st.booleans()):
        words.append(draw(st.sampled_from(["/models/x", "org/model"])))
    for _ in range(draw(st.integers(0, 4))):
        name, value = draw(st.sampled_from(NAMES)), draw(st.sampled_from(VALUES))
        how = draw(st.integers(0, 3))
        words += [name] if how == 0 else [f"{name}={value}"] if how == 1 else [name, value]
    return f"{head} {' '.join(each if each == '$PORT' else shlex.quote(each) for each in words)}"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=commands())
def test_the_corrected_command_passes_and_stays(text: str) -> None:
    checked = check_text(text, "0.33.0")
    again = check_text(checked.corrected, "0.33.0")
    assert [str(problem) for problem in again.problems if problem.severity == "error"] == []
    assert again.corrected == checked.corrected
    if not checked.problems:
        assert checked.changes == ()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=commands())
def test_no_secret_is_repeated(text: str) -> None:
    checked = check_text(text, "0.33.0")
    said = json.dumps(checked.as_dict())
    assert f"hf_{SECRET}" not in said
    # A word that nothing marks as a secret (the value of --served-model-name, say) is not one.
    marked = any(f"{name}{sep}{SECRET}" in text for name in ("TOKEN", "KEY", "--api-key", "--hf-token") for sep in "= ")
    if marked:
        assert SECRET not in said


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("dockervunlsm -=/'\"\\\n$(){}#;&|<>:.01—“”é"), max_size=120))
def test_any_text_is_answered(text: str) -> None:
    from metalserve.errors import MetalserveError

    try:
        checked = check_text(f"vllm serve m/m {text}", "0.33.0")
    except MetalserveError:
        return
    assert check_text(checked.corrected, "0.33.0").errors == 0
