"""Pieces of HAProxy's language: quoted words, and refusals in the shape that OpenAI's clients read."""

from __future__ import annotations

import json


def in_json(status: int, words: str, retry_after: str = "") -> str:
    """Return the arguments of an answer in the shape that OpenAI's clients read."""
    kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    body = json.dumps({"error": {"message": words, "type": kind, "param": None, "code": status}})
    return f"content-type application/json string {quoted(body)}" + (
        f" hdr Retry-After {retry_after}" if retry_after else ""
    )


def refuse(status: int, words: str, condition: str, *, retry_after: str = "") -> str:
    """Return the rule that answers with an error where `condition` holds."""
    return f"http-request return status {status} {in_json(status, words, retry_after)} {condition}"


def quoted(text: str) -> str:
    """Return a word as HAProxy reads it back: in single quotes nothing is special but their end."""
    return "'" + text.replace("'", "'\\''") + "'"
