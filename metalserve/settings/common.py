"""What every part of the settings shares: strict, frozen, and silent about the values it was given."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """One group of settings: unknown keys and wrong types are refused, values cannot be changed afterwards.

    Types are strict (`"8000"` is no port): what pyinfra's `--data` and YAML give has a type already, and a silent
    conversion hides a typing error in an inventory. Inputs stay out of error messages, because any may be a secret.
    Checks are built when they are first needed: a command that needs two sections does not wait for fifty.
    """

    model_config = ConfigDict(
        defer_build=True, extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, protected_namespaces=()
    )


def problem(message: str) -> PydanticCustomError:
    """Return the error of one setting; `message` must not contain the value, which may be a secret."""
    return PydanticCustomError("metalserve", "{message}", {"message": message})


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path or any(part in ("..", ".") for part in path.split("/")):
        raise problem("must be an absolute path without '.' or '..'")
    if any(character.isspace() for character in path):
        raise problem("must not contain white space")
    return path.rstrip("/") or "/"


def _url(url: str) -> str:
    try:
        parts = urlsplit(url)
        credentials = parts.username is not None or parts.password is not None
    except ValueError:
        raise problem("is not a URL") from None
    if credentials:
        raise problem("must not carry a user name or password: they would reach logs and process lists")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise problem("must begin with http:// or https:// and name a server")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise problem("must not contain white space")
    return url.rstrip("/")


def _source(url: str) -> str:
    if not url.startswith("file:"):
        return _url(url)
    path = url.removeprefix("file://")
    if path == url or not path.startswith("/") or path.rstrip("/") == "" or "%" in path:
        raise problem("must be file:///PATH with an absolute path as it is, not percent-encoded")
    return "file://" + _absolute(path)


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
"""An absolute path on the host, without a trailing slash."""

Url = Annotated[str, AfterValidator(_url)]
"""An http(s) URL without credentials and without a trailing slash; may hold {distro} and {arch}."""

SourceUrl = Annotated[str, AfterValidator(_source)]
"""An http(s) URL as `Url`, or file:///PATH."""

Positive = Annotated[int, Field(gt=0)]
__all__ = ["AbsolutePath", "Positive", "Section", "SourceUrl", "Url", "problem"]
