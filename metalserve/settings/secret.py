"""Where a secret is to be found. The value itself is read by `metalserve.secrets` and never stands in settings."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from metalserve.settings.common import Section, problem

# Capitals only: a token pasted in place of a variable's name (hf_..., sk-...) has small letters,
# and must be refused before a message can quote it as "variable hf_... is not set".
_ENV_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


class SecretRef(Section):
    """A reference to a secret on the controller: exactly one of `env`, `file`, `command`."""

    env: str | None = Field(None, description="name of an environment variable of the controller, in capitals")
    file: str | None = Field(
        None, description="path of a file on the controller, outside the checkout, mode 0600; its first line counts"
    )
    command: list[str] | None = Field(
        None, description="program and arguments run on the controller, e.g. ['pass', 'show', 'llm/api-key']"
    )

    @field_validator("env")
    @classmethod
    def _env_is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not _ENV_NAME.fullmatch(value):
            raise problem("must be the name of an environment variable (capitals, digits, _), not the secret itself")
        return value

    @field_validator("file")
    @classmethod
    def _file_is_a_path(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("/", "~/")):
            raise problem("must be an absolute path (or begin with ~/)")
        return value

    @field_validator("command")
    @classmethod
    def _command_is_argv(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and (not value or not value[0] or any("\0" in part for part in value)):
            raise problem("must be a list: the program, then its arguments")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(value is not None for value in (self.env, self.file, self.command)) != 1:
            raise problem("must have exactly one of env, file, command")
        return self

    def __str__(self) -> str:
        """Return the reference in words, as error messages name it."""
        if self.env is not None:
            return f"environment variable {self.env}"
        if self.file is not None:
            return f"file {self.file}"
        # Only the program: arguments could hold what must not be shown.
        return f"command {(self.command or ['?'])[0]!r}"

    def __repr__(self) -> str:
        """Return the same words; a secret has no business in a representation."""
        return f"SecretRef({self})"
