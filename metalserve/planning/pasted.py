"""A pasted command line: which part of it vLLM gets, and what is wrong with the part around it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from metalserve.catalogue.vllm_flags import ArgProblem

# Options of `docker run` without a value; every other one takes the next word unless it has a `=`.
_SWITCHES = frozenset(
    ("-d", "-i", "-t", "-it", "-ti", "-P", "--rm", "--detach", "--init", "--privileged", "--interactive", "--tty")
)
_SECRET_NAMES = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)", re.IGNORECASE)


def read_command(words: Sequence[str]) -> tuple[list[str], list[ArgProblem]]:
    """Return vLLM's own arguments of a command line, and the problems of what stands around them.

    Understands `docker run`/`podman run`, `vllm serve`, `python -m vllm.entrypoints.openai.api_server`, and bare
    arguments.
    """
    words = [word for word in words if word.strip() and word != "\\"]
    if words[:1] == ["sudo"]:
        words = words[1:]
    if len(words) > 1 and words[0] in {"docker", "podman"}:
        return _docker(words[2:] if words[1] == "run" else words[1:])
    if words[:2] == ["vllm", "serve"]:
        return words[2:], []
    for place, word in enumerate(words):
        if word.startswith("vllm.entrypoints.") and place and words[place - 1] == "-m":
            return words[place + 1 :], []
    return list(words), []


def _docker(words: Sequence[str]) -> tuple[list[str], list[ArgProblem]]:
    options: list[tuple[str, str]] = []
    place = 0
    while place < len(words) and words[place].startswith("-"):
        name, equals, value = words[place].partition("=")
        place += 1
        if not equals and name not in _SWITCHES and place < len(words):
            value = words[place]
            place += 1
        options.append((name, value))
    image = words[place] if place < len(words) else ""
    args = list(words[place + 1 :])
    if args[:2] == ["vllm", "serve"]:
        args = args[2:]
    return args, [*_image_problems(image), *_option_problems(options, args)]


def _image_problems(image: str) -> list[ArgProblem]:
    tag = image.rpartition("/")[2].partition(":")[2]
    if not image:
        return [ArgProblem("missing-value", "docker run", "the command names no image")]
    if "@sha256:" not in image and tag in {"", "latest", "nightly"}:
        message = f"the image is {tag or 'latest'}: what it holds changes under you (CUDA 13 since vLLM 0.20)"
        return [ArgProblem("choice", "image", message, "pin a version and its digest, e.g. :v0.33.0", "warning")]
    return []


def _option_problems(options: Sequence[tuple[str, str]], args: Sequence[str]) -> list[ArgProblem]:
    names = {name for name, _ in options}
    problems = []
    for name, value in options:
        variable, equals, _ = value.partition("=")
        if name in {"-e", "--env"} and equals and _SECRET_NAMES.search(variable):
            message = f"{variable} stands on the command line: `ps` and `docker inspect` show it to everybody"
            problems.append(
                ArgProblem("extra", variable, message, "put it into a file of mode 0600 and give --env-file")
            )
        if name in {"-e", "--env"} and variable == "HUGGING_FACE_HUB_TOKEN":
            message = "HUGGING_FACE_HUB_TOKEN is the old name"
            problems.append(ArgProblem("choice", variable, message, "use HF_TOKEN", "warning"))
    if not names & {"--ipc", "--shm-size"}:
        message = "without --ipc=host or --shm-size the workers share 64 MiB of memory: NCCL fails with several GPUs"
        problems.append(ArgProblem("missing-value", "--ipc", message, "add --ipc=host", "warning"))
    given = {word.partition("=")[0].replace("_", "-") for word in args}
    if ("--network", "host") in options and "--host" not in given and "--api-key" not in given:
        message = "with --network host and no --host the API answers everybody, without a key"
        problems.append(ArgProblem("missing-value", "--host", message, "give --host and a key", "warning"))
    if not names & {"-v", "--volume", "--mount"}:
        message = "no volume: each new container downloads the model and compiles again"
        problems.append(ArgProblem("missing-value", "-v", message, "mount the models and /root/.cache/vllm", "warning"))
    return problems
