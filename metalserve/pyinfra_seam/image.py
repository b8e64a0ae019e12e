"""pyinfra's connector `@image/DIR`: the host is a tree that is to become an image; see metalserve/trees/image.py.

Roles need nothing but commands: each of their stages is one script for one shell. So files come and go by no other way,
and none can be led out of the tree by a link in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.exceptions import ConnectError, InventoryError
from pyinfra.connectors.base import BaseConnector, DataMeta
from pyinfra.connectors.local import LocalConnector
from pyinfra.connectors.util import extract_control_arguments, make_unix_command_for_host

from metalserve.trees.image import command_in_image


class ImageData(TypedDict):
    """Host data that the connector reads."""

    image_directory: str
    image_epoch: int
    image_apt_cache: str


class ImageConnector(BaseConnector):
    """Runs commands in the tree of an image, with nothing of this machine in sight."""

    handles_execution = True
    data_cls = ImageData
    data_meta = {  # noqa: RUF012 - pyinfra's own attribute
        "image_directory": DataMeta("The tree, given by the host's name"),
        "image_epoch": DataMeta("SOURCE_DATE_EPOCH for what is run in it"),
        "image_apt_cache": DataMeta("Directory of this machine that apt keeps its packages in"),
    }

    def __init__(self, state: Any, host: Any) -> None:
        super().__init__(state, host)
        self.local = LocalConnector(state, host)

    @staticmethod
    def make_names_data(name: str | None = None) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        """Give pyinfra the host that `@image/DIR` names."""
        if not name:
            raise InventoryError("@image needs a directory: @image//srv/tree")
        yield f"@image/{name}", {"image_directory": f"/{name.lstrip('/')}"}, ["@image"]

    def connect(self) -> None:
        """See that a command runs in the tree."""
        ok, output = self.run_shell_command(StringCommand("true"))
        if not ok:
            raise ConnectError(output.output.strip() or "no command runs in the image")

    def run_shell_command(
        self, command: Any, print_output: bool = False, print_input: bool = False, **arguments: Any
    ) -> tuple[bool, Any]:
        """Run a command in the tree."""
        given: Any = arguments
        control = extract_control_arguments(given)
        inner = make_unix_command_for_host(self.state, self.host, command, **given)
        epoch, cache = self.host.data.get("image_epoch"), self.host.data.get("image_apt_cache")
        line = command_in_image(
            Path(self.host.data.image_directory),
            ["sh", "-c", inner.get_raw_value()],
            binds={Path(cache): "/var/cache/apt/archives"} if cache else None,
            epoch=epoch,
        )
        return self.local.run_shell_command(
            StringCommand(*(QuoteString(word) for word in line)),
            print_output=print_output,
            print_input=print_input,
            **control,
        )

    def put_file(self, *arguments: Any, **keywords: Any) -> bool:
        """Refuse: see the module."""
        raise OSError("@image takes no files; roles write what they write by their scripts")

    def get_file(self, *arguments: Any, **keywords: Any) -> bool:
        """Refuse: see the module."""
        raise OSError("@image gives no files; read them in the tree")
