"""What an observation says about a host in trouble: the bundle that came with it, and the record. Pure."""

from __future__ import annotations

import base64
import binascii
import io
import shlex
from functools import lru_cache

from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.recovery.bundle import collecting_script
from metalserve.recovery.look import Seen, see, unpacked
from metalserve.recovery.ports import Looked
from metalserve.recovery.record import RECORD, Record

BUNDLE, RECORD_SECTION = "recovery-bundle", "recovery-record"


def bundle_command() -> str:
    """Return the command that collects a bundle and prints it in base64."""
    return f"sh -c {shlex.quote(collecting_script())} 2>/dev/null | base64"


def record_of(node: Node) -> Record | None:
    """Return the host's record, None when it never had one.

    Raises:
        MetalserveError: it cannot be understood.
    """
    return Record.read(node.observed.text(RECORD_SECTION)) if RECORD in node.observed.files else None


def look_of(node: Node, since: float) -> tuple[Seen, Looked]:
    """Return what the observation's bundle says.

    Args:
        node: the host.
        since: seconds since the epoch by the host's clock; events from before do not count.

    Raises:
        MetalserveError: there is no bundle in it.
    """
    seen = _seen(node.observed.text(BUNDLE), since)
    wanted = node.settings.model is not None
    serving = seen.serving if seen.tokens else not wanted
    return seen, Looked(True, True, seen.verdict, serving, seen.boot, "", seen.subjects, seen.in_words())


@lru_cache(maxsize=64)
def _seen(text: str, since: float) -> Seen:
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise MetalserveError(
            "the evidence did not come over whole", remedy="run again; or `metalserve diagnose --inventory`"
        ) from error
    return see(unpacked(io.BytesIO(data).getvalue()), since=since)
