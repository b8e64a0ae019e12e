"""References to models on a host: who needs which one. What is referenced is never removed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from metalserve.desired.model import Action
from metalserve.desired.observed import Observation
from metalserve.settings import ModelSettings
from metalserve.weights.host import call, key_of
from metalserve.weights.observed import Reference, read_references

SECTION = "weights-references"
INVENTORY = "inventory"
"""The reference of the model that the inventory names for the host, whether an engine serves it yet or not."""

ENGINE = "vllm-"
"""How the references of what vLLM serves begin; there are two while one model replaces another."""


def found(observed: Observation) -> tuple[Reference, ...]:
    """Return the references on a host."""
    return read_references(observed.text(SECTION))


def engine_reference(model: ModelSettings) -> str:
    """Return the name of the reference of an engine that serves `model`."""
    return f"{ENGINE}{key_of(model)}"


def wanted(
    observed: Observation, mount: str, name: str, model: ModelSettings, release: str, *, phase: str = "late"
) -> tuple[Action, ...]:
    """Return what makes a reference to `model`; nothing where it is there."""
    there = _is(name, model)
    if there(observed):
        return ()
    before = next((each.model for each in found(observed) if each.name == name), "")
    words = call(
        "reference", "add", mount, name, "--repository", model.name, "--revision", model.revision, "--release", release
    )  # fmt: skip
    return (
        Action(
            name=f"reference {name}: {before + ' -> ' if before else ''}{model.name}@{model.revision[:12]}",
            phase=phase,
            done=there,
            script=f"{words}\n",
        ),
    )


def _is(name: str, model: ModelSettings) -> Callable[[Observation], bool]:
    return lambda seen: any(
        (each.name, each.repository, each.revision) == (name, model.name, model.revision) for each in found(seen)
    )


def gone(observed: Observation, mount: str, names: Iterable[str]) -> tuple[Action, ...]:
    """Return what removes references; nothing for those that are not there."""
    known = {each.name: each for each in found(observed)}
    return tuple(
        Action(
            name=f"reference {name} to {known[name].model}: removed, nothing serves it any more",
            phase="late",
            done=_without(name),
            script=f"{call('reference', 'remove', mount, name)}\n",
        )
        for name in sorted(set(names) & known.keys())
    )


def _without(name: str) -> Callable[[Observation], bool]:
    return lambda seen: all(each.name != name for each in found(seen))


def engines_but(observed: Observation, kept: str) -> list[str]:
    """Return the references of engines that are not `kept`."""
    return [each.name for each in found(observed) if each.name.startswith(ENGINE) and each.name != kept]
