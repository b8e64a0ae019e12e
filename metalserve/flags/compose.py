"""A service of a compose file as the `docker run` command that it stands for. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from metalserve.errors import MetalserveError
from metalserve.flags.command import Command, read_text, read_words
from metalserve.flags.shell import Word, statements, word
from metalserve.yaml_text import read_yaml

_COMPOSE = re.compile(r"^services\s*:", re.MULTILINE)


def read_pasted(text: str) -> Command:
    """Return the command in a pasted text: a shell's, or that of a compose file's service that runs vLLM.

    Raises:
        MetalserveError: a quote is not closed, or the compose file cannot be read.
    """
    return _from_compose(text) if _COMPOSE.search(text) else read_text(text)


def _from_compose(text: str) -> Command:
    try:
        data = read_yaml(text)
    except yaml.YAMLError:  # its message would repeat the line, and what stands in it
        raise MetalserveError("is not YAML", where="the compose file", remedy="paste the whole file") from None
    services = data.get("services") if isinstance(data, dict) else None
    found = [each for each in services.values() if isinstance(each, dict)] if isinstance(services, dict) else []
    if not found:
        raise MetalserveError("has no service", where="the compose file")
    service = next((each for each in found if "vllm" in f"{each.get('image')} {each.get('command')}"), found[0])
    image = service.get("image")
    return read_words([
        *map(word, ("docker", "run", "-d")), *_options(service), *([word(str(image))] if image else []),
        *_command(service.get("command")),
    ])  # fmt: skip


def _command(value: Any) -> list[Word]:
    if isinstance(value, str):
        return [each for statement in statements(value.replace("\n", " ")) for each in statement.words]
    return [word(str(each)) for each in value] if isinstance(value, list) else []


def _options(service: Mapping[str, Any]) -> Iterator[Word]:
    for key, option in (("restart", "--restart"), ("runtime", "--runtime"), ("ipc", "--ipc"),
                        ("network_mode", "--network"), ("shm_size", "--shm-size")):  # fmt: skip
        if service.get(key) is not None:
            yield from (word(option), word(str(service[key])))
    for key, option in (("ports", "-p"), ("volumes", "-v"), ("env_file", "--env-file")):
        for each in _listed(service.get(key)):
            yield from (word(option), word(_short(each)))
    for name, value in _environment(service.get("environment")):
        yield from (word("-e"), word(name if value is None else f"{name}={value}"))
    if service.get("privileged"):
        yield word("--privileged")
    gpus = _gpus(service)
    if gpus is not None:
        yield from (word("--gpus"), word(gpus))
    entrypoint = service.get("entrypoint")
    if entrypoint:
        yield from (word("--entrypoint"), word(" ".join(map(str, _listed(entrypoint)))))


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _short(value: Any) -> str:
    """Return the short form of a port or volume that is written as a mapping."""
    if not isinstance(value, dict):
        return str(value)
    if "target" in value:
        return f"{value.get('published', value.get('source', value['target']))}:{value['target']}"
    return str(value.get("path", ""))


def _environment(value: Any) -> Iterator[tuple[str, str | None]]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield str(name), None if each is None else str(each)
    for each in value if isinstance(value, list) else []:
        name, equals, rest = str(each).partition("=")
        yield name, rest if equals else None


def _gpus(service: Mapping[str, Any]) -> str | None:
    if service.get("gpus") is not None:
        return "all"
    place: Any = service
    for key in ("deploy", "resources", "reservations", "devices"):
        place = place.get(key) if isinstance(place, dict) else None
    for device in _listed(place):
        if not isinstance(device, dict):
            continue
        if "gpu" in _listed(device.get("capabilities")) or device.get("driver") == "nvidia":
            ids = device.get("device_ids")
            return f'"device={",".join(map(str, ids))}"' if isinstance(ids, list) else str(device.get("count", "all"))
    return None
