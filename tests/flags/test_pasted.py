"""Pasted commands: what is found, the corrected command, and what it keeps."""

from __future__ import annotations

import shlex

import pytest

from metalserve.errors import MetalserveError
from metalserve.flags import check_command, read_pasted, read_words
from metalserve.flags.check import check_text

GOOD = (
    "docker run -d --name llm --restart unless-stopped --gpus '\"device=0,1\"' --ipc=host --network host "
    "--env-file /etc/vllm/llama.env -v /srv/models:/models:ro vllm/vllm-openai:v0.33.0 /models/llama "
    "--served-model-name llama --host 10.0.0.11 --tensor-parallel-size 2"
)
ARTICLE = """docker run --gpus all --ipc=host --network host -e HUGGING_FACE_HUB_TOKEN=hf_abcSECRET \\
    vllm/vllm-openai:latest --model meta-llama/Llama-3.3-70B-Instruct \\
    --tensor-parallel-size 2 --dtype fp8 --gpu-memory-utilization 0.90 --swap-space 16 \\
    --enable-prefix-caching --max-num-batched-tokens 65536 --port 8000
"""


def found(text: str, release: str | None = None) -> set[tuple[str, str]]:
    return {(problem.kind, problem.flag) for problem in check_text(text, release).problems}


def test_a_command_that_is_right_is_left_alone() -> None:
    checked = check_text(GOOD)
    assert (checked.problems, checked.changes, checked.release) == ((), (), "0.33.0")
    assert shlex.split(checked.corrected.replace("\\\n", " ")) == shlex.split(GOOD)


def test_the_article() -> None:
    checked = check_text(ARTICLE)
    said = {(p.kind, p.flag): p for p in checked.problems}
    assert said["secret", "HUGGING_FACE_HUB_TOKEN"].severity == "error"
    assert said["environment", "HUGGING_FACE_HUB_TOKEN"].remedy == "use HF_TOKEN"
    assert said["image", "image"].remedy == "pin a version and its digest, e.g. :v0.33.0"
    assert {("choice", "--dtype"), ("removed", "--swap-space"), ("container", "--host")} <= set(said)
    words = shlex.split(checked.corrected.replace("\\\n", " "))
    assert words[:2] == ["docker", "run"]
    assert words[words.index("vllm/vllm-openai:v0.33.0") + 1] == "meta-llama/Llama-3.3-70B-Instruct"
    assert "fp8" in words and "--dtype" not in words and "--swap-space" not in words
    for kept in ("--gpus", "--network", "--enable-prefix-caching", "--max-num-batched-tokens", "65536", "0.90"):
        assert kept in words
    assert "SECRET" not in checked.corrected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("docker run --ipc=host -v a:/b vllm/vllm-openai:v0.33.0 m/m", ("container", "--gpus")),
        ("docker run --gpus all -v a:/b vllm/vllm-openai:v0.33.0 m/m", ("container", "--ipc")),
        ("docker run --gpus all --shm-size 64m -v a:/b vllm/vllm-openai:v0.33.0 m/m", ("container", "--ipc")),
        ("docker run --gpus all --ipc=host vllm/vllm-openai:v0.33.0 m/m", ("container", "-v")),
        ("docker run --gpus all --ipc=host -v a:/b vllm/vllm-openai:v0.33.0 /m/m", ("container", "MODEL")),
        ("docker run --gpus all --ipc=host -v a:/b -p 8000:8000 vllm/vllm-openai:v0.33.0 m/m", ("container", "-p")),
        ("docker run --gpus all --ipc=host -v a:/b --env-file f -p 80:8000 vllm/vllm-openai:v0.33.0 m/m --port 90",
         ("container", "-p")),
        ("docker run --rm --restart always --gpus all --ipc=host -v a:/b vllm/vllm-openai:v0.33.0 m/m",
         ("container", "--rm")),
        ("docker run --restart on-failure --gpus all --ipc=host -v a:/b vllm/vllm-openai:v0.33.0 m/m",
         ("container", "--restart")),
        ("docker run --privileged --gpus all --ipc=host -v a:/b vllm/vllm-openai:v0.33.0 m/m",
         ("container", "--privileged")),
        ("docker run --gpus 2 --ipc=host -v a:/b vllm/vllm-openai:v0.33.0 m/m -tp 4", ("container", "--gpus")),
        ("docker run --gpus all --ipc=host -v a:/b vllm/vllm-openai:v0.33.0 vllm serve m/m",
         ("container", "vllm serve")),
        ("docker run --gpus all --ipc=host -v a:/b vllm/vllm-openai m/m", ("image", "image")),
        ("docker run --gpus all --ipc=host -v a:/b host:5000/own/vllm-openai m/m", ("image", "image")),
        ("docker run --gpus all --ipc=host -v a:/b host:5000/own/vllm-openai:latest m/m", ("image", "image")),
        ("docker run --gpus all --ipc=host -v a:/b vllm/vllm-openai:v0.15.1 m/m", ("image", "image")),
        ("docker run --gpus all", ("container", "image")),
        ("HF_TOKEN=hf_x12345 vllm serve m/m", ("secret", "HF_TOKEN")),
        ("vllm serve m/m --api-key abcdef", ("secret", "--api-key")),
        ("VLLM_ATTENTION_BACKEND=FLASH_ATTN vllm serve m/m", ("environment", "VLLM_ATTENTION_BACKEND")),
        ("VLLM_ATENTION=1 vllm serve m/m", ("environment", "VLLM_ATENTION")),
        ("VLLM_SERVER_DEV_MODE=yes vllm serve m/m", ("environment", "VLLM_SERVER_DEV_MODE")),
        ("vllm serve m/m --headless --api-server-count 2", ("conflict", "--headless")),
        ("vllm serve m/m --enable-auto-tool-choice", ("conflict", "--enable-auto-tool-choice")),
        ("vllm serve m/m --max-num-batched-tokens 128 --max-num-seqs 256", ("conflict", "--max-num-seqs")),
        ("vllm serve m/m --port 1 --port 2", ("duplicate", "--port")),
        ("python3 -m vllm.entrypoints.openai.api_server m/m", ("model", "MODEL")),
        ("vllm serve --model m/m", ("model", "--model")),
        ("vllm serve m/m --enable-prefix-caching true", ("extra", "argument 3")),
        ("vllm serve m/m --kv-transfer-config {kv_role:kv_both}", ("type", "--kv-transfer-config")),
    ],
)  # fmt: skip
def test_found_and_put_right(text: str, expected: tuple[str, str]) -> None:
    checked = check_text(text, None if "v0.15" in text else "0.33.0")
    assert expected in {(p.kind, p.flag) for p in checked.problems}
    again = check_text(checked.corrected)
    if expected != ("container", "image"):
        assert [p for p in again.problems if p.severity == "error"] == []
        assert again.corrected == checked.corrected


@pytest.mark.parametrize(
    ("text", "corrected"),
    [
        ("vllm serve m/m --dtype fp8", "vllm serve m/m --quantization fp8"),
        ("vllm serve m/m --gpu-memory-utilization 90%", "vllm serve m/m --gpu-memory-utilization 0.9"),
        ("vllm serve m/m --tensor-paralel-size 2", "vllm serve m/m --tensor-parallel-size 2"),
        ("vllm serve m/m --enable-prefix-caching=false", "vllm serve m/m --no-enable-prefix-caching"),
        ("vllm serve m/m --enable-prefix-caching true", "vllm serve m/m --enable-prefix-caching"),
        ("vllm serve m/m --cuda-graph-sizes 1 2 4", "vllm serve m/m --cudagraph-capture-sizes 1 2 4"),
        ("vllm serve m/m --task embed", "vllm serve m/m --runner pooling"),
        ("vllm serve m/m --task generate", "vllm serve m/m"),
        ("vllm serve m/m --port 1 --port 2", "vllm serve m/m --port 2"),
        ("vllm serve --port 1 --model m/m", "vllm serve m/m --port 1"),
        ("vllm serve --xyzzy m/m --port 1", "vllm serve m/m --port 1"),
        ("vllm serve m/m --dtype Half", "vllm serve m/m --dtype half"),
        ("vllm serve m/m --enable-log-outputs", "vllm serve m/m --enable-log-outputs --enable-log-requests"),
        ("HUGGING_FACE_HUB_TOKEN=$T vllm serve m/m", 'HF_TOKEN="$T" vllm serve m/m'),
        ("vllm serve m/m --hf-overrides \"{'a': None}\"", "vllm serve m/m --hf-overrides '{\"a\": null}'"),
        ("vllm serve m/m --max-model-len 32,768", "vllm serve m/m --max-model-len 32768"),
    ],
)  # fmt: skip
def test_corrected(text: str, corrected: str) -> None:
    assert check_text(text, "0.33.0").corrected == corrected


def test_the_images_tag_decides_the_release() -> None:
    text = "docker run --gpus all --ipc=host -v a:/b vllm/vllm-openai:v0.17.0 m/m --swap-space 4"
    assert check_text(text).release == "0.17.0"
    assert ("removed", "--swap-space") not in found(text)
    later = check_text(text, "0.33.0")
    assert ("removed", "--swap-space") in {(p.kind, p.flag) for p in later.problems}
    assert "v0.33.0" in later.corrected


def test_what_is_not_corrected_keeps_its_spelling() -> None:
    text = 'CUDA_VISIBLE_DEVICES=0 nohup vllm serve "$MODEL" --port $PORT --swap-space 4 >/var/log/vllm 2>&1 &'
    corrected = 'CUDA_VISIBLE_DEVICES=0 nohup vllm serve "$MODEL" --port $PORT >/var/log/vllm 2>&1 &'
    assert check_text(text, "0.33.0").corrected == corrected


def test_what_people_paste() -> None:
    prompt = "$ sudo docker run --gpus all --ipc=host -v a:/b vllm/vllm-openai:v0.33.0 \\  \n  m/m –port x\n"
    assert [p.flag for p in check_text(prompt).problems] == ["--port"]
    assert check_text("# start it\nvllm serve m/m   # now\n").problems == ()
    assert check_text("docker pull x && vllm serve m/m --swap-space 1").corrected == "docker pull x && vllm serve m/m"
    assert found("docker exec -it c vllm serve m/m --prot 1") == {("unknown", "--prot")}
    assert found("podman run --device nvidia.com/gpu=all --ipc=host -p127.0.0.1:8000:8000 -v/a:/b "
                 "docker.io/vllm/vllm-openai:v0.33.0 /b/m") == set()  # fmt: skip


def test_a_quote_that_is_not_closed() -> None:
    with pytest.raises(MetalserveError, match="not closed") as caught:
        read_pasted("vllm serve 'hf_SECRET")
    assert "SECRET" not in str(caught.value)


def test_words_and_text_read_the_same() -> None:
    assert check_command(read_words(shlex.split(GOOD))).problems == check_text(GOOD).problems == ()


COMPOSE = """
services:
  db: {image: postgres}
  llm:
    image: vllm/vllm-openai:latest
    command: --model org/m --tensor-parallel-size 2 --swap-space 4
    environment: {HUGGING_FACE_HUB_TOKEN: hf_SECRETSECRET}
    ports: ["8000:8000"]
    volumes: ["/srv/cache:/root/.cache/huggingface"]
    deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 1, capabilities: [gpu]}]}}}
"""


def test_a_compose_file() -> None:
    checked = check_text(COMPOSE)
    kinds = {(p.kind, p.flag) for p in checked.problems}
    assert {("removed", "--swap-space"), ("secret", "HUGGING_FACE_HUB_TOKEN"), ("image", "image")} <= kinds
    assert {("container", "--ipc"), ("container", "-p"), ("container", "--gpus")} <= kinds
    assert "SECRET" not in checked.corrected
    assert checked.corrected.startswith("docker run")
    assert check_text(checked.corrected).problems == ()


@pytest.mark.parametrize("text", ["services: [", "services: {}", "services:\n  a: 1\n"])
def test_a_compose_file_that_cannot_be_read(text: str) -> None:
    with pytest.raises(MetalserveError, match="compose file"):
        check_text(text)
