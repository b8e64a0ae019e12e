"""From untyped inventory data to settings, with every problem in words an inventory's author understands."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from metalserve.pyinfra_seam.keys import connector_keys
from metalserve.settings.common import Section
from metalserve.settings.errors import SettingsError

Model = TypeVar("Model", bound=BaseModel)

_TYPES = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be True or False",
    "list_type": "must be a list",
    "dict_type": "must be a dict",
    "model_type": "must be a dict of settings",
    "model_attributes_type": "must be a dict of settings",
    "missing": "is missing",
    "finite_number": "must be a finite number",
    "date_type": "must be a date, YYYY-MM-DD",
    "date_from_datetime_inexact": "must be a date, YYYY-MM-DD",
    "too_short": "must not be empty",
    "string_pattern_mismatch": "does not have the form it must have",
    "invalid_key": "has a key that is not text",
}
"""pydantic's error types in plain words. Limits ('must be at most 65535') are taken from the error's context."""


def read_settings(schema: type[Model], data: Mapping[str, Any], *, host: str, source: str) -> Model:
    """Validate `data` as `schema`; see `HostSettings.from_data`."""
    settings, problems = check_data(schema, data)
    if settings is None or problems:
        raise SettingsError(f"{source}: {host}: {key}: {what}" for key, what in problems)
    return settings


def check_data(schema: type[Model], data: Mapping[str, Any]) -> tuple[Model | None, list[tuple[str, str]]]:
    """Validate `data` as `schema`, returning the settings when they are well formed, and every problem.

    Contradictions between sections are looked for even when some section is refused, among those that are right.
    """
    from metalserve.settings.consistency import contradictions
    from metalserve.settings.host import HostSettings

    ours = {key: value for key, value in data.items() if key not in connector_keys()}
    problems: list[tuple[str, str]] = []
    settings: Model | None = None
    try:
        settings = schema.model_validate(ours)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        problems = problems_of(details, schema, extra_names=connector_keys())
        rest = ours
        for detail in details:
            rest = _without(rest, detail["loc"])
        if schema is HostSettings:
            rest.setdefault("release", "unknown")
        try:
            readable: Model | None = schema.model_validate(rest)
        except ValidationError:
            readable = None
    else:
        readable = settings
    if isinstance(readable, HostSettings):
        problems += contradictions(readable)
    return settings, problems


def problems_of(
    details: Iterable[ErrorDetails], schema: type[BaseModel], *, extra_names: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """Turn pydantic's errors into (dotted key, what is wrong), without any value in them.

    Args:
        details: `ValidationError.errors()`.
        schema: the model that was validated.
        extra_names: further names allowed at the top, for the nearest-name hint.
    """
    found: list[tuple[str, str]] = []
    for detail in details:
        key = ".".join(_label(part) for part in detail["loc"]) or "settings"
        if detail["type"] == "extra_forbidden":
            what = "unknown setting" + _hint(detail["loc"], schema, extra_names)
        else:
            what = _words(detail)
        if (key, what) not in found:
            found.append((key, what))
    return found


def _without(data: dict[str, Any], location: tuple[int | str, ...]) -> dict[str, Any]:
    """Return `data` less the setting at `location`, or less its whole top section when that cannot be cut out."""
    top, *inner = location or ("",)
    section = data.get(str(top))
    if len(inner) == 1 and isinstance(section, Mapping) and inner[0] in section:
        return {**data, str(top): {key: value for key, value in section.items() if key != inner[0]}}
    return {key: value for key, value in data.items() if key != top}


def _label(part: int | str) -> str:
    """Return one step of a key; a stray key that looks like anything but a name is shortened."""
    text = str(part)
    return text if len(text) <= 60 and text.isprintable() else f"{text[:20]!a}..."


def _words(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "metalserve":
        return str(context["message"])
    if kind in ("model_type", "model_attributes_type") and detail["loc"][-1] in ("api_key", "hf_token"):
        return "must say where the secret is, such as {'env': 'NAME'}; the secret itself has no place in an inventory"
    if kind == "literal_error":
        return f"must be one of {context['expected']}"
    limits = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than"}
    limits["less_than_equal"] = "at most"
    if kind in limits:
        limit = next(iter(context.values()))
        return f"must be {limits[kind]} {limit}"
    return _TYPES.get(kind, detail["msg"].lower() if kind.startswith(("int", "float", "string")) else "is not valid")


def _hint(location: tuple[int | str, ...], schema: type[BaseModel], extra_names: Iterable[str]) -> str:
    """Return ` (did you mean 'X'?)` for an unknown key: a near sibling, else the same name in another section."""
    *path, last = (str(part) for part in location)
    level = _level(schema, path)
    siblings = list(level.model_fields) if level else []
    names = siblings + list(extra_names) if not path else siblings
    elsewhere = [dotted for dotted in dotted_names(schema) if dotted.split(".")[-1] == last]
    near = elsewhere[:2] or difflib.get_close_matches(last, names, n=1, cutoff=0.6)
    if near:
        return f" (did you mean {' or '.join(map(repr, near))}?)"
    return f"; known here: {', '.join(siblings)}" if siblings else ""


def _level(schema: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """Return the section at `path`, through lists and dicts of sections, or None when there is none."""
    annotation: Any = schema
    for step in path:
        section = section_in(annotation)
        if section is not None:
            annotation = section.model_fields[step].annotation if step in section.model_fields else None
        elif typing.get_origin(annotation) in (list, dict):  # the step is an index or a key
            annotation = typing.get_args(annotation)[-1]
        else:
            return None
    return section_in(annotation)


def dotted_names(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every setting of `schema` as a dotted name, sections before their members."""
    for name in schema.model_fields:
        yield prefix + name
        section = _section_of(schema, name)
        if section is not None:
            yield from dotted_names(section, f"{prefix}{name}.")


def _section_of(schema: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the section that field `name` of `schema` holds, if it holds one."""
    field = schema.model_fields.get(name)
    return section_in(field.annotation) if field else None


def section_in(annotation: Any) -> type[Section] | None:
    """Return the `Section` an annotation stands for, alone or as `Section | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            section = section_in(part)
            if section is not None:
                return section
    return None
