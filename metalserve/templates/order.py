"""What an order to install a template says: which build, on which disk of which machine, and how far it is. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from metalserve.errors import MetalserveError
from metalserve.templates.machine_identity import Identity

State = Literal["ordered", "permitted", "done", "failed"]
Status = Literal["ok", "bad"]

LIFE: Final = timedelta(hours=24)
"""How long an order waits for its machine: one that is found months later must not wipe it."""

WORDS_LIMIT: Final = 500
"""Characters kept of what the installer says."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]

HostKey = Annotated[
    str,
    StringConstraints(pattern=r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]{40,2000}={0,3}$"),
]
"""A public SSH host key: its type and its Base64, without a comment. It goes into known_hosts."""


class Disk(BaseModel):
    """A disk that the machine has, as its installer tells.

    Attributes:
        serial: serial number, or "" when it has none.
        size_bytes: size in bytes.
        model: model, for people.
        name: the kernel's name (`nvme0n1`), for people: it changes from boot to boot.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    serial: str = ""
    size_bytes: Annotated[int, Field(ge=0)] = 0
    model: str = ""
    name: str = ""


class Target(BaseModel):
    """The disk that an order is for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    serial: Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]


class Order(BaseModel):
    """One order: this build, on that disk of that machine.

    Attributes:
        schema_: version of the file.
        number: random name of this order; a later order for the same node has another.
        node: the node's name in the inventory.
        identity: which machine.
        template: name of the template.
        build: which build of it.
        disk: which disk.
        token: what the installer shows with its result; a secret until then.
        state: `ordered`, `permitted` (the installer may write, or has begun), `done`, `failed`.
        words: what was said last.
        ordered_at: when it was placed (UTC).
        expires_at: when it is no longer given out (UTC).
        permitted_at: when the one permission was given (UTC), or None.
        ended_at: when the result came (UTC), or None.
        host_keys: public SSH host keys that the installed system has, as its installer said; empty when it did not.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    number: Name
    node: Name
    identity: Identity
    template: Name
    build: Name
    disk: Target
    token: str
    state: State = "ordered"
    words: str = ""
    ordered_at: datetime
    expires_at: datetime
    permitted_at: datetime | None = None
    ended_at: datetime | None = None
    host_keys: tuple[HostKey, ...] = ()

    def waits(self, now: datetime) -> bool:
        """Tell whether the order may still be given out."""
        return self.state == "ordered" and now < self.expires_at


Check = Callable[[Order, Disk], None]


class Refused(MetalserveError):
    """The server does not permit what was asked; the words are for the machine's console and the order."""


def utc_now() -> datetime:
    """Return the time, in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def plain(words: str) -> str:
    """Return words as one short line that no console can be made to obey."""
    return "".join(c if c.isprintable() else " " for c in words)[:WORDS_LIMIT]


def why_not(order: Order) -> str:
    """Return why an order is not given out (any more), in words."""
    if order.state == "ordered":
        return f"its order has expired at {order.expires_at:%Y-%m-%d %H:%M} UTC; place a new one"
    since = order.ended_at or order.permitted_at or order.ordered_at
    return f"its order has been used: {order.state} at {since:%Y-%m-%d %H:%M} UTC; place a new one"
