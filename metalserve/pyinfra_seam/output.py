"""What hosts print need not be valid UTF-8: pyinfra's reader dies of one such byte, and the rest is lost.

A kernel log or a tool's message in another encoding must not make a host unreadable for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from queue import Queue
from typing import Any

from paramiko import BufferedFile
from pyinfra.api.output import echo
from pyinfra.connectors import util


def install() -> None:
    """Replace pyinfra's reader of a command's output; safe to call twice."""
    # Private to pyinfra 3: `read_output_buffers` looks the name up in its module each time.
    util.read_buffer = _read_buffer


def _read_buffer(
    name: str,
    io: Iterable[str | bytes],
    output_queue: Queue[Any],
    print_output: bool = False,
    print_func: Callable[[str], str] | None = None,
) -> None:
    if isinstance(io, BufferedFile):
        # paramiko decodes text files strictly, and there is no other way to ask for the bytes afterwards.
        io._flags |= io.FLAG_BINARY  # type: ignore[attr-defined]
    for line in io:
        text = line.decode("utf-8", errors="replace") if isinstance(line, bytes) else line
        text = text.rstrip("\n")
        output_queue.put(util.OutputLine(name, text))
        if print_output:
            echo(print_func(text) if print_func else text, err=True)
