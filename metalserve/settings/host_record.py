"""What a run writes on a host, for whatever run comes next to read: the base of such records."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import ValidationError

from metalserve.errors import MetalserveError
from metalserve.settings.common import Section


class HostRecord(Section):
    """A record in a file on a host; its subclasses say which.

    Attributes:
        PATH: the file.
    """

    PATH: ClassVar[str]

    def text(self) -> str:
        """Return the file's content."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the record that `text` is.

        Raises:
            MetalserveError: it is none that this metalserve understands; it is left as it is.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise MetalserveError(
                f"cannot be understood: {place + ': ' if place else ''}{first['msg']}",
                where=cls.PATH,
                remedy="use the metalserve that wrote it; or, when the host is as it should be, remove the file",
            ) from error
