"""Strikes secrets out of what leaves the house, as `files/recovery/collect.sh` does on the host. Pure."""

from __future__ import annotations

import re
from typing import Final

_STRUCK: Final = rb"\g<1>***"
_PATTERNS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rb"""((?:api[_-]?key|token|secret|password|passwd|authorization|credential)\\?["']?[ \t]*[:=][ \t]*\\?["']?"""
        rb"""(?:bearer[ \t]+|basic[ \t]+)?)[^\s"',;]+""",
        rb"""(--(?:api-key|hf-token|token|password)[ \t=]+)[^\s"']+""",
        rb"(bearer[ \t]+)[A-Za-z0-9._~+/=-]{8,}",
        rb"(\b(?:hf_|sk-|ghp_|glpat-))[A-Za-z0-9_-]{12,}",
        rb"""([a-z][a-z0-9+.-]{1,20}://)[^\s/@:"',]{1,100}:[^\s/@"',]{1,200}(?=@)""",
    )
)
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.{0,20000}?-----END [A-Z ]{0,30}-----", re.S)


def scrubbed(content: bytes) -> bytes:
    """Return `content` with what looks like secrets replaced by `***`; bytes, as logs need not be UTF-8."""
    content = _PRIVATE_KEY.sub(b"*** private key ***", content)
    for pattern in _PATTERNS:
        content = pattern.sub(_STRUCK, content)
    return content
