"""The flag catalogue: what it refuses and why, and that it agrees with argparse over the same release's flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.catalogue.vllm.trim import trim
from metalserve.catalogue.vllm_check import check_args
from metalserve.catalogue.vllm_flags import known_releases, load_flags
from metalserve.errors import MetalserveError
from metalserve.lab.engine.standin.arguments import build_parser
from metalserve.paths import CATALOGUE

ARTICLE = [
    *("--model", "meta-llama/Llama-3.3-70B-Instruct", "--tensor-parallel-size", "2", "--dtype", "fp8"),
    *("--gpu-memory-utilization", "0.90", "--swap-space", "16", "--enable-prefix-caching"),
    *("--max-num-batched-tokens", "65536", "--port", "8000"),
]
SECRET_FORMS = [
    "--api-key {0} --port x",
    "--hf-token={0} --hf-tokn {0}",
    "--api_key={0} --no-such={0}",
    "--hf-tok {0}x --api-k {0}",
]


def kinds(args: str, version: str = "0.33.0") -> list[tuple[str, str]]:
    return [(problem.kind, problem.flag) for problem in check_args(args.split(), version)]


def test_known_releases_are_sorted_and_load() -> None:
    releases = known_releases()
    assert (releases[0], releases[-1], len(releases)) == ("0.8.0", "0.33.0", 29)
    assert releases.index("0.9.2") < releases.index("0.10.0") < releases.index("0.11.2")
    assert all(len(load_flags(version).flags) >= 130 for version in releases)
    assert len(load_flags("v0.33.0").flags) == 322


def test_the_command_that_everybody_copies() -> None:
    problems = check_args(ARTICLE, "0.33.0")
    assert [(p.kind, p.flag, p.severity) for p in problems] == [
        ("choice", "--dtype", "error"),
        ("removed", "--swap-space", "error"),
        ("model", "--model", "warning"),
    ]
    assert "--quantization fp8" in str(problems[0])
    assert "removed in vLLM 0.18.0" in str(problems[1])
    assert "--kv-offloading-size" in str(problems[1])


def test_the_same_command_on_an_older_release() -> None:
    assert kinds(" ".join(ARTICLE), "0.17.0") == [("choice", "--dtype"), ("model", "--model")]
    assert kinds(" ".join(ARTICLE), "0.11.0") == [("choice", "--dtype")]


@pytest.mark.parametrize(
    "args",
    [
        "/m",
        "/m --served-model-name a b --port 8000",
        "/m --served_model_name=a",
        "/m --max-model-len 32k",
        "/m --max-model-len -1",
        "/m --max-model-len auto",
        "/m -tp 2 -O3",
        "/m --enable-prefix-caching",
        "/m --no-enable-prefix-caching",
        "/m --disable-prefix-caching",
        "/m --compilation-config.mode 3 --compilation-config.pass_config.fuse_norm=1",
        '/m --kv-transfer-config={"kv_role":"kv_both"}',
        "/m --tensor-parallel-s 2",
        "/m --hf-token",
        "/m --moe-backend deep-gemm",
        "/m --disable-log-requests",
        "/m --max-log-len None",
    ],
)
def test_accepted(args: str) -> None:
    assert kinds(args) == []


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("/m --tensor-paralel-size 2", ("unknown", "--tensor-paralel-size")),
        ("/m --task generate", ("removed", "--task")),
        ("/m --port eight", ("type", "--port")),
        ("/m --max-model-len 1.5K", ("type", "--max-model-len")),
        ("/m --gpu-memory-utilization 90%", ("type", "--gpu-memory-utilization")),
        ("/m --kv-transfer-config {x", ("type", "--kv-transfer-config")),
        ("/m --port", ("missing-value", "--port")),
        ("/m --enable-prefix-caching=1", ("extra", "--enable-prefix-caching")),
        ("/m --enab", ("ambiguous", "--enab")),
        ("/m --port 1 2", ("extra", "argument 4")),
        ("--port 1 /m", ("model", "MODEL")),
        ("/m --port.x 1", ("unknown", "--port.x")),
        ("/m --moe-backend magic", ("choice", "--moe-backend")),
    ],
)
def test_refused(args: str, expected: tuple[str, str]) -> None:
    assert kinds(args) == [expected]


def test_a_gap_in_a_flags_life_is_explained() -> None:
    [problem] = check_args(["/m", "--disable-log-requests"], "0.19.0")
    assert problem.kind == "removed"
    assert "removed in vLLM 0.17.0 and is back after 0.32.0" in problem.message


def test_a_flag_that_came_later() -> None:
    [problem] = check_args(["--model", "/m", "--shutdown-timeout", "10"], "0.11.0")
    assert (problem.kind, problem.remedy) == ("too-new", "drop it, or pin vLLM 0.18.0 or newer")


def test_old_images_take_the_model_as_an_option() -> None:
    assert kinds("--model /m", "0.11.0") == []
    assert kinds("/m", "0.11.0") == [("model", "MODEL")]
    assert [p.severity for p in check_args(["--model", "/m"], "0.33.0")] == ["warning"]


@pytest.mark.parametrize("secret", ["hf_SECRETSECRET", "plainsecret"])
@pytest.mark.parametrize("form", SECRET_FORMS)
def test_secrets_are_never_repeated(form: str, secret: str) -> None:
    problems = check_args(["/m", *form.format(secret).split()], "0.33.0")
    assert secret not in " ".join(map(str, problems))


@pytest.mark.parametrize("flag", ["--port", "--dtype", "--no-such", "--kv-transfer-config"])
def test_a_token_in_the_wrong_place_is_not_repeated(flag: str) -> None:
    problems = check_args(["/m", flag, "hf_SECRET"], "0.33.0")
    assert problems
    assert "hf_SECRET" not in " ".join(map(str, problems))


def test_unknown_release() -> None:
    with pytest.raises(MetalserveError, match=r"no flag catalogue for vLLM 1\.0.*pin one of 0\.33\.0"):
        check_args(["/m"], "1.0")
    with pytest.raises(MetalserveError, match=r"pin one of 0\.14\.0, 0\.16\.0"):
        check_args(["/m"], "0.15.1")


def test_what_is_accepted_and_yet_worth_a_word() -> None:
    def said(args: str, version: str) -> list[tuple[str, str, str]]:
        return [(p.kind, p.flag, p.severity) for p in check_args(args.split(), version)]

    assert said("/m --port 1 --port 2", "0.33.0") == [("duplicate", "--port", "warning")]
    assert said("/m --enable-log-requests --disable-log-requests", "0.33.0") == [
        ("duplicate", "--disable-log-requests", "warning")
    ]
    assert said("/m --log-config-file f", "0.32.0") == [("deprecated", "--log-config-file", "warning")]
    assert said("/m --log-config-file f", "0.28.0") == []
    assert said("/m --quantization fp9", "0.33.0") == [("choice", "--quantization", "warning")]
    assert said("/m --load-format safetensors -q fp8 --kv-cache-dtype fp8", "0.33.0") == []
    assert said("/m --quantization fp9", "0.28.0") == []
    assert said("/m --hf-overrides.a 1 --hf-overrides.b 2", "0.33.0") == []


def test_a_renamed_flag_says_its_new_name() -> None:
    [problem] = check_args(["/m", "--cuda-graph-sizes", "1", "2"], "0.33.0")
    assert (problem.kind, problem.remedy) == ("renamed", "use --cudagraph-capture-sizes")


def test_who_gets_the_arguments_decides_how_the_model_is_named() -> None:
    assert check_args(["/m"], "0.11.0", entry="serve") == []
    assert [p.kind for p in check_args(["/m"], "0.33.0", entry="api_server")] == ["model"]
    assert check_args(["--model", "/m"], "0.33.0", entry="api_server") == []


def test_what_a_shell_fills_in_is_not_judged() -> None:
    assert check_args(["/m", "--port", "$PORT"], "0.33.0", expanding=True) == []
    assert [p.kind for p in check_args(["/m", "--port", "$PORT"], "0.33.0")] == ["type"]


def test_history_agrees_with_the_flag_files() -> None:
    history = json.loads((CATALOGUE / "vllm/history.json").read_text())["options"]
    for version in known_releases():
        here = [int(part) for part in version.split(".")]
        for name, past in history.items():
            if "absent" in past:
                continue
            first = [int(part) for part in past["first_seen"].split(".")]
            gone = [int(part) for part in past.get("removed_by", "99.0").split(".")]
            assert (name in load_flags(version).by_name) == (first <= here < gone), (version, name)


def test_trim_keeps_what_decides() -> None:
    action = {
        "dest": "dtype", "flags": ["--dtype"], "also_accepted": [], "action": "_StoreAction", "nargs": None,
        "type": "str", "choices": ["auto", "half"], "default": "auto", "help": "long text", "group": "g",
    }  # fmt: skip
    [flag] = trim({"vllm_version": "1", "source": "s", "flags": [action]})["flags"]
    assert flag == {
        "dest": "dtype", "flags": ["--dtype"], "action": "store", "type": "str", "choices": ["auto", "half"],
        "default": "auto",
    }  # fmt: skip


def argparse_accepts(args: list[str], version: str) -> bool:
    parser = build_parser(CATALOGUE / "vllm" / f"flags-{version}.json")
    try:
        parser.parse_args(parser.prepare(args))
    except SystemExit as stop:
        return stop.code == 0
    return True


VALUES = ["1", "0.5", "abc", "auto", "8k", "1.5K", "{}", '{"a": 1}', "None", "-1", "fp8", "half", "hf_x", "deep-gemm"]


@st.composite
def command_lines(draw: st.DrawFn, version: str) -> list[str]:
    names = sorted(load_flags(version).by_name)
    args = ["/m"]
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(names))
        if name in {"-h", "--help", "--model"}:  # argparse alone takes MODEL and --model; vLLM moves one in front
            continue
        if draw(st.booleans()):
            name = name.replace("-", "_").replace("__", "--", 1) if name.startswith("--") else name
        if draw(st.integers(0, 9)) == 0 and len(name) > 6:
            name = name[:-2]
        value = draw(st.sampled_from(VALUES))
        how = draw(st.integers(0, 3))
        args += [name] if how == 0 else [f"{name}={value}"] if how == 1 else [name, value]
    return args


@pytest.mark.parametrize("version", ["0.8.0", "0.11.0", "0.11.2", "0.17.0", "0.19.0", "0.28.0", "0.32.0", "0.33.0"])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_check_agrees_with_argparse(version: str, data: st.DataObject) -> None:
    args = data.draw(command_lines(version))
    problems = [p for p in check_args(args, version) if p.severity == "error" and p.kind != "model"]
    assert (not problems) == argparse_accepts(args, version), [str(p) for p in problems]


def test_flag_files_say_where_they_come_from() -> None:
    for path in Path(CATALOGUE / "vllm").glob("flags-*.json"):
        data = json.loads(path.read_text())
        assert data["release"] in path.name
        assert "real argparse of vllm" in data["source"]
