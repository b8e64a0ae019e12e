"""The lines of one host in OpenSSH's known_hosts, replaced when its system was written anew. Pure.

Only what names just this host goes. Marked lines (@revoked, @cert-authority) and patterns are a person's, and stay.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence


def entry_name(address: str, port: int) -> str:
    """Return what known_hosts calls a host that is reached at this address and port."""
    return address if port == 22 else f"[{address}]:{port}"


def replaced(text: str, name: str, keys: Sequence[str]) -> str:
    """Return the file's text with `keys` as the only keys of `name`.

    Args:
        text: the file as it is.
        name: see `entry_name`.
        keys: the new keys, type and Base64 each.
    """
    kept = [line for each in text.splitlines() if (line := _without(each, name)) is not None]
    return "".join(f"{line}\n" for line in [*kept, *(f"{name} {key}" for key in keys)])


def _without(line: str, name: str) -> str | None:
    """Return a line without the host's name; `None` when nothing of it is left."""
    names, _, rest = line.partition(" ")
    if not rest or names.startswith(("#", "@")):
        return line
    left = [each for each in names.split(",") if not _is(each, name)]
    return f"{','.join(left)} {rest}" if left else None


def _is(entry: str, name: str) -> bool:
    if not entry.startswith("|1|"):
        return entry.lower() == name.lower()
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in entry[3:].split("|"))
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
