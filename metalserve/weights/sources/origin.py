"""What every source of a manifest gives: a list of files, and their bytes where the list does not tell enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

from metalserve.secrets import Secret
from metalserve.weights.agent.config import SourceConfig
from metalserve.weights.agent.source import Source
from metalserve.weights.agent.web import SourceError
from metalserve.weights.manifest import ManifestError


class Gone(ManifestError):
    """The source does not have it, or not any more."""


@dataclass(frozen=True, slots=True)
class Found:
    """One file of a source.

    Attributes:
        path: inside the model's directory.
        size: bytes; None where the source has not said.
        sha256: of the content; None where the source does not know it.
        blob: id of the git blob, for small files of a hub: proves the bytes that are hashed.
        url: where it is, for sources whose names are no paths.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    blob: str | None = None
    url: str = ""

    @property
    def known(self) -> bool:
        """Whether size and hash are there, so that its bytes need not be fetched."""
        return self.size is not None and self.sha256 is not None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source has.

    Attributes:
        files: all of them.
        source: the source, pinned as far as it can be; as `made_from.source` of a manifest.
        commit: the commit, of hubs alone.
        asked: branch or tag that was asked for, when it was one.
        listing: of HTTP mirrors, how the files became known; as `made_from.listing`.
        notes: what the user should know.
    """

    files: Sequence[Found]
    source: str
    commit: str = ""
    asked: str = ""
    listing: str = ""
    notes: tuple[str, ...] = ()


class Stream(Protocol):
    """What is read and closed."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none at the end."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Origin(Protocol):
    """One source."""

    def listing(self) -> Listing:
        """Return what it has; raises ManifestError."""
        ...

    def settled(self, found: Found) -> Found:
        """Return a file with what can be learnt of it without its bytes; raises ManifestError."""
        ...

    def open(self, found: Found) -> Stream:
        """Return its bytes; raises ManifestError, OSError or SourceError."""
        ...


@dataclass(frozen=True, slots=True)
class Access:
    """The secret for a source and how it was given.

    Attributes:
        secret: None for none.
        variable: environment variable that it is looked for in; empty for none.
    """

    secret: Secret | None = None
    variable: str = ""

    @property
    def how(self) -> str:
        """What to do when the source wants other credentials."""
        hosts = "on the hosts it is model.hf_token in the inventory"
        if not self.variable:
            return f"name the environment variable with the credentials with --token-env; {hosts}"
        state = "is not set" if self.secret is None else "holds what was refused"
        return f"export the token as {self.variable} (it {state}), or name another by --token-env; {hosts}"

    def connect(self, kind: str, base: str, region: str = "") -> Source:
        """Return the agent's own client of a source, so that both treat secrets and redirects alike."""
        try:
            return Source(SourceConfig(kind, base, region), self.secret.reveal() if self.secret is not None else "")
        except SourceError as error:
            raise ManifestError(error.what, remedy=self.how) from None

    def explain(self, error: SourceError) -> NoReturn:
        """Raise a source's error as that of a manifest, with what to do here, not on the host."""
        if error.status in (404, 410):
            raise Gone(error.what) from None
        remedy = self.how if error.status in (401, 403) else error.remedy or None
        raise ManifestError(error.what, remedy=remedy) from None


Advance = Callable[[int], None]
"""Is told of bytes that were read."""
