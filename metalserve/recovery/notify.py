"""Tells people what a recovery did: a webhook each, generic JSON or Slack's format. Never more often than is read.

The address of a webhook is a secret: who has it can write there. It is read at the last moment and never shown.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from metalserve.errors import MetalserveError
from metalserve.secrets import Secret, resolve
from metalserve.settings.secret import SecretRef

Format = Literal["json", "slack"]

TIMEOUT_S: Final = 10.0
TRIES: Final = 3
PAUSE_S: Final = 2.0
"""Seconds before the second try; the third comes after twice as long."""
SAME_S: Final = 3600.0
"""Seconds in which the same news about the same host is told once."""
HOURLY: Final = 60
"""Messages an hour at most; what is more is counted and told with the next one."""
_SLACK_LIMIT = 3000


@dataclass(frozen=True, slots=True)
class News:
    """Something that people should know.

    Attributes:
        kind: "recovered", "quarantined", "stopped", "not-begun", "breaker-open", "would-recover".
        host: the host; empty for the fleet.
        words: what happened, in a line.
        more: further values for the generic format.
    """

    kind: str
    host: str
    words: str
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """By what it is the same news again."""
        return self.kind, self.host, self.words


@dataclass(frozen=True, slots=True)
class Target:
    """Where news go.

    Attributes:
        format: how they are written.
        url: where the webhook's address is found.
    """

    format: Format
    url: SecretRef


def parse_target(text: str) -> Target:
    """Read `FORMAT:env:NAME` or `FORMAT:file:PATH`; FORMAT is `json` or `slack`.

    Raises:
        MetalserveError: it is neither; the text is not repeated, since it may be the address itself.
    """
    form, _, rest = text.partition(":")
    kind, _, value = rest.partition(":")
    if form not in ("json", "slack") or kind not in ("env", "file") or not value:
        raise MetalserveError(
            "is not FORMAT:env:NAME or FORMAT:file:PATH with json or slack", where="--notify",
            remedy="the webhook's address is a secret: keep it in a variable or a file (slack:env:SLACK_URL)",
        )  # fmt: skip
    try:
        reference = SecretRef(env=value) if kind == "env" else SecretRef(file=value)
    except ValueError:
        raise MetalserveError("names neither a variable in capitals nor an absolute path", where="--notify") from None
    return Target("json" if form == "json" else "slack", reference)


def body(news: News, form: Format, *, simulated: bool, at: float, left_out: int = 0) -> bytes:
    """Return the message.

    Args:
        news: what to tell.
        form: how.
        simulated: the GPUs are simulated; the message says so.
        at: seconds since the epoch.
        left_out: messages that were left out before this one.
    """
    more = f" ({left_out} more were left out within the hour)" if left_out else ""
    if form == "slack":
        mark = " [simulated]" if simulated else ""
        plain = news.words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        who = f"*{news.host}*: " if news.host else ""
        return json.dumps({"text": f"{who}{news.kind}{mark}: {plain}{more}"[:_SLACK_LIMIT]}).encode()
    value = {
        "schema": 1, "kind": news.kind, "host": news.host, "words": news.words, "at": at, "simulated": simulated,
        "left_out": left_out, **({"more": dict(news.more)} if news.more else {}),
    }  # fmt: skip
    return json.dumps(value).encode()


class Notifier:
    """Sends news to targets; what cannot be sent is told by `complain` and lost, since a recovery does not wait for it.

    Args:
        targets: where to.
        simulated: the fleet's GPUs are simulated.
        complain: told why a message could not be sent.
        send: sends bytes to an address; raises OSError. Another one in tests.
        clock: seconds since the epoch.
        sleep: waits.
    """

    def __init__(
        self,
        targets: list[Target],
        *,
        simulated: bool = False,
        complain: Callable[[str], None] = lambda words: None,
        send: Callable[[str, bytes], None] | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._targets, self._simulated, self._complain = targets, simulated, complain
        self._send = send or _post
        self._clock, self._sleep = clock, sleep
        self._told: dict[tuple[str, str, str], float] = {}
        self._sent: deque[float] = deque()
        self._left_out = 0

    def tell(self, news: News) -> bool:
        """Send news to every target; returns whether it was sent, which it is not when it was told just now."""
        now = self._clock()
        if now - self._told.get(news.key, -SAME_S) < SAME_S:
            return False
        while self._sent and now - self._sent[0] >= 3600.0:
            self._sent.popleft()
        if len(self._sent) >= HOURLY:
            self._left_out += 1
            return False
        self._told = {key: at for key, at in self._told.items() if now - at < SAME_S}
        self._told[news.key] = now
        self._sent.append(now)
        left_out, self._left_out = self._left_out, 0
        results = [self._to(target, news, now, left_out) for target in self._targets]
        return any(results)

    def _to(self, target: Target, news: News, now: float, left_out: int) -> bool:
        try:
            url = resolve(target.url)
        except MetalserveError as error:
            self._complain(f"no notification: {error}")
            return False
        message = body(news, target.format, simulated=self._simulated, at=now, left_out=left_out)
        for number in range(TRIES):
            try:
                self._send(_checked(url), message)
                return True
            except MetalserveError as error:
                self._complain(f"no notification: {target.url}: {error.what}")
                return False
            except OSError as error:
                why = f"{error.code}" if isinstance(error, urllib.error.HTTPError) else type(error).__name__
                if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429:
                    self._complain(f"no notification: {target.url} answers {why}")
                    return False
                if number + 1 == TRIES:
                    self._complain(f"no notification after {TRIES} tries: {target.url}: {why}")
                else:
                    self._sleep(PAUSE_S * 2**number)
        return False


def _checked(url: Secret) -> str:
    address = url.reveal()
    if not address.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
        raise MetalserveError("the address must begin with https:// (http only to this machine)")
    return address


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow none: what is told to one address is not for another."""


def _post(url: str, message: bytes) -> None:
    request = urllib.request.Request(url, message, {"Content-Type": "application/json"}, method="POST")  # noqa: S310
    opener = urllib.request.build_opener(_NoRedirect)
    with opener.open(request, timeout=TIMEOUT_S) as answer:
        answer.read(65536)
