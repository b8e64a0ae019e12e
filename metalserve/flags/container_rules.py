"""What is wrong with how a pasted command runs the container, and how each is put right. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from metalserve.addresses import EVERYWHERE, LOOPBACK
from metalserve.catalogue.vllm_arguments import ArgProblem, Argument, read_args
from metalserve.catalogue.vllm_check import takes_positional
from metalserve.flags.command import Command, Option
from metalserve.flags.environment_rules import ENV_FILE, variables
from metalserve.flags.found import Found
from metalserve.flags.shell import Word, word

_CACHE = "$HOME/.cache/huggingface"


def container_findings(command: Command, release: str) -> Iterator[Found]:
    """Yield what is wrong with `docker run` and its options; nothing where no container is run."""
    if not command.runner:
        return
    if command.image is None:
        yield Found(ArgProblem("container", "image", "the command names no image", "name vllm/vllm-openai:vVERSION"))
        return
    arguments = read_args(command.values, release, expanding=True)
    yield from _image(command, release)
    yield from _entry(command)
    yield from _contradictions(command)
    yield from _gpus(command, arguments)
    yield from _shared_memory(command)
    yield from _network(command, arguments)
    yield from _volumes(command, arguments, release)


def image_version(command: Command) -> str | None:
    """Return the vLLM version that the image's tag names, or None."""
    name = command.image.value if command.image else ""
    found = re.fullmatch(r".*/vllm-openai(?:-\w+)?:v(\d+\.\d+\.\d+(?:\.\d+)?)(?:[-@].*)?", f"/{name}")
    return found.group(1) if found else None


def _image(command: Command, release: str) -> Iterator[Found]:
    assert command.image is not None
    name, _, digest = command.image.value.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # no tag; the colon is a registry's port
        repository, tag = name, ""
    if digest:
        return
    if tag in {"", "latest", "nightly"}:
        message = f"the image is {tag or 'latest'}: what it holds changes under you (CUDA 13 since vLLM 0.20)"
        remedy = f"pin a version and its digest, e.g. :v{release}"
        fix = partial(_pin, image=f"{repository}:v{release}") if command.official else None
        problem = ArgProblem("image", "image", message, remedy, "warning")
        yield Found(problem, fix, f"the image is v{release}" if fix else "")
    elif (given := image_version(command)) and given != release:
        message = f"the image is vLLM {given}, the check is for {release}"
        problem = ArgProblem("image", "image", message, f"use :v{release}, or check for {given}", "warning")
        yield Found(problem, partial(_pin, image=f"{repository}:v{release}"), f"the image is v{release}")


def _pin(command: Command, image: str) -> Command:
    return replace(command, image=word(image))


def _entry(command: Command) -> Iterator[Found]:
    if command.program and command.official and command.value("--entrypoint") is None:
        said = " ".join(each.value for each in command.program)
        message = f"the image starts vLLM itself: `{said}` becomes arguments of it, and it ends with status 2"
        problem = ArgProblem("container", said, message, "leave it out: what follows the image are vLLM's arguments")
        yield Found(problem, lambda c: replace(c, program=()), f"`{said}` is left out")


def _contradictions(command: Command) -> Iterator[Found]:
    restart = next((o for o in command.having("--restart") if o.value not in {None, "no"}), None)
    removed = next(iter(command.having("--rm")), None)
    if restart and removed:
        message = "--rm and --restart exclude each other: docker refuses the command"
        problem = ArgProblem("container", "--rm", message, "drop --rm for a service that is to come back")
        yield Found(problem, partial(_drop, option=removed), "--rm is dropped")
    if restart and (restart.value or "").startswith("on-failure"):
        message = "--restart on-failure does not bring vLLM back: it ends with status 0 when its engine core dies"
        problem = ArgProblem("container", "--restart", message, "use --restart unless-stopped", "warning")
        new = Option("--restart", "unless-stopped", (word("--restart"), word("unless-stopped")))
        yield Found(problem, partial(_swap, option=restart, new=new), "--restart is unless-stopped")
    for option in command.having("--privileged"):
        message = "--privileged gives the container the whole host; vLLM needs only its GPUs"
        problem = ArgProblem("container", "--privileged", message, "drop it, --gpus is enough", "warning")
        yield Found(problem, partial(_drop, option=option), "--privileged is dropped")


def _drop(command: Command, option: Option) -> Command:
    return command.without_option(option)


def _swap(command: Command, option: Option, new: Option) -> Command:
    return command.without_option(option, [new])


def _gpus(command: Command, arguments: list[Argument]) -> Iterator[Found]:
    assert command.image is not None
    if "vllm-openai-cpu" in command.image.value:
        return
    handed = command.having("--gpus")
    devices = [o for o in command.having("--device") if "nvidia" in (o.value or "")]
    named = {variable.name: variable.value for variable in variables(command)}
    if not handed and not devices and command.value("--runtime") != "nvidia":
        message = "the container gets no GPU: vLLM ends at once"
        yield Found(
            ArgProblem("container", "--gpus", message, "add --gpus all, or the GPUs it shall have"),
            lambda c: c.with_option("--gpus", "all"), "--gpus all is added",
        )  # fmt: skip
        return
    visible = named.get("CUDA_VISIBLE_DEVICES") or named.get("NVIDIA_VISIBLE_DEVICES")
    counts = [_count(o.value or "") for o in handed] + [
        len(visible.split(",")) if visible and visible != "all" else None
    ]
    have = min((count for count in counts if count is not None), default=None)
    need = _number(arguments, "--tensor-parallel-size", "-tp") * _number(arguments, "--pipeline-parallel-size", "-pp")
    if have is not None and need > have and _number(arguments, "--nnodes") == 1:
        message = f"tensor times pipeline parallel needs {need} GPUs, the container gets {have}"
        problem = ArgProblem("container", "--gpus", message, f"give it {need}, or lower --tensor-parallel-size")
        yield Found(problem, _all_gpus, "--gpus is all")


def _all_gpus(command: Command) -> Command:
    for option in command.having("--gpus"):
        command = command.without_option(option, [Option("--gpus", "all", (word("--gpus"), word("all")))])
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        for variable in list(variables(command)):
            if variable.name == name and variable.option is not None:
                command = command.without_option(variable.option)
    return command


def _count(value: str) -> int | None:
    if found := re.search(r"device=([\w,\-]+)", value):
        return len(found.group(1).split(","))
    return int(value) if value.isdigit() else None


def _number(arguments: list[Argument], *names: str) -> int:
    found = [a.values[0] for a in arguments if a.name in names and a.values and not a.problem]
    return int(found[-1]) if found and found[-1].isdigit() else 1


def _shared_memory(command: Command) -> Iterator[Found]:
    size = command.value("--shm-size")
    if command.having("--ipc") or (
        size is not None and not re.fullmatch(r"(\d{1,8}|\d{1,5}k|\d{1,3}m)b?", size.lower())
    ):
        return
    message = "without --ipc=host or --shm-size the workers share 64 MiB of memory: NCCL fails with several GPUs"
    if size is not None:
        message = f"--shm-size {size} is little shared memory: NCCL fails with several GPUs"
    problem = ArgProblem("container", "--ipc", message, "add --ipc=host", "warning")
    yield Found(problem, lambda c: c.with_option("--ipc", "host", inline=True), "--ipc=host is added")


def _network(command: Command, arguments: list[Argument]) -> Iterator[Found]:
    given = {each.name: each for each in arguments if each.name}
    host_network = command.value("--network", "--net") == "host"
    published = command.having("-p", "--publish")
    keyed = "--api-key" in given or bool(command.having("--env-file"))
    keyed = keyed or any(variable.name == "VLLM_API_KEY" for variable in variables(command))
    host = given["--host"].values[0] if "--host" in given and given["--host"].values else None
    if host_network:
        for option in published:
            message = "-p does nothing with --network host: the port is the host's already"
            problem = ArgProblem("container", "-p", message, "drop it", "warning")
            yield Found(problem, partial(_drop, option=option), "-p is dropped")
        if not keyed and host not in LOOPBACK and (host is None or host in EVERYWHERE):
            message = "with --network host and no --host the API answers everybody, without a key"
            problem = ArgProblem("container", "--host", message, "give --host and a key (VLLM_API_KEY)", "warning")
            yield Found(problem, _with_key, f"VLLM_API_KEY comes from {ENV_FILE}", "VLLM_API_KEY")
        return
    port = given["--port"].values[0] if "--port" in given and given["--port"].values else "8000"
    for option in published:
        outside, _, inside = (option.value or "").rpartition(":")
        if not keyed and outside.rpartition(":")[0] not in LOOPBACK:
            message = "the port is published on every address of the host, and no key is asked for"
            problem = ArgProblem("container", "-p", message, "set VLLM_API_KEY, or publish 127.0.0.1:PORT", "warning")
            yield Found(problem, _with_key, f"VLLM_API_KEY comes from {ENV_FILE}", "VLLM_API_KEY")
            keyed = True
        if port.isdigit() and inside.partition("/")[0].isdigit() and inside.partition("/")[0] != port:
            message = f"-p {option.value} leads to port {inside}, but vLLM listens on {port}"
            problem = ArgProblem("container", "-p", message, f"publish {outside or port}:{port}", "warning")
            new = Option("-p", f"{outside or port}:{port}", (word("-p"), word(f"{outside or port}:{port}")))
            yield Found(problem, partial(_swap, option=option, new=new), f"-p leads to {port}")
    if published and host in LOOPBACK:
        message = f"--host {host} inside the container is out of reach of the published port"
        problem = ArgProblem("container", "--host", message, "drop --host", "warning")
        at = given["--host"]
        yield Found(problem, lambda c: c.with_args(at.start, at.end, ()), "--host is dropped")


def _with_key(command: Command) -> Command:
    return command.with_option("--env-file", ENV_FILE)


def _volumes(command: Command, arguments: list[Argument], release: str) -> Iterator[Found]:
    mounts = [*command.having("-v", "--volume"), *command.having("--mount")]
    model = _model(command, arguments, release)
    if model is not None and model.startswith(("/", "./", "~")):
        inside = [path for option in mounts for path in [_target(option)] if path]
        if command.official and not any(model == path or model.startswith(path.rstrip("/") + "/") for path in inside):
            message = "the model is a directory that the container does not have: no volume leads there"
            problem = ArgProblem("container", "MODEL", message, "add -v DIRECTORY:DIRECTORY:ro")
            if model.startswith("/"):
                yield Found(problem, lambda c: c.with_option("-v", f"{model}:{model}:ro"), "the model is mounted")
            else:
                yield Found(problem, partial(_absolute, model=model), "the model is mounted at /model")
    elif not mounts:
        message = "no volume: each new container downloads the model and compiles again"
        problem = ArgProblem("container", "-v", message, "mount the models and /root/.cache/vllm", "warning")
        raw = f'"{_CACHE}:/root/.cache/huggingface"'
        yield Found(
            problem, lambda c: c.with_option("-v", f"{_CACHE}:/root/.cache/huggingface", raw=raw),
            "the model cache is mounted",
        )  # fmt: skip


def _absolute(command: Command, model: str) -> Command:
    raw = Word(f'"$PWD/{model}"', model) if model.startswith(".") else Word(model, model)
    place = next(at for at, each in enumerate(command.args) if each.value == model)
    named = command.with_args(place, place + 1, ["/model"])
    return named.with_option("-v", f"{raw.value}:/model:ro", raw=f"{raw.raw}:/model:ro")


def _target(option: Option) -> str | None:
    value = option.value or ""
    if option.name == "--mount":
        found = re.search(r"(?:target|destination|dst)=([^,]+)", value)
        return found.group(1) if found else None
    parts = value.split(":")
    return parts[1] if len(parts) > 1 else None


def _model(command: Command, arguments: list[Argument], release: str) -> str | None:
    option = next((each for each in arguments if each.name == "--model" and each.values), None)
    if option is not None:
        return option.values[0]
    bare = next((each for each in arguments if not each.name), None)
    if bare is None or not takes_positional(release, command.entry):
        return None
    return bare.values[0]
