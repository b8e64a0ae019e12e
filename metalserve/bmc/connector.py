"""Requests to one Redfish service: each with a deadline, repeated only where that is safe, errors in words."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3.exceptions
from sushy import connector as sushy_connector
from sushy import exceptions as sushy_errors

from metalserve.bmc.errors import BmcError
from metalserve.bmc.tls import secure, seen_fingerprint
from metalserve.catalogue.bmc_quirks import load_bmc_quirks
from metalserve.settings.bmc import BmcTlsSettings

CONNECT_S = 5.0
"""Seconds for a connection: a BMC is on the same site."""
READ_S = 30.0
"""Seconds for one answer: BMCs under load were seen to take ten."""
OPERATION_S = 60.0
"""Seconds for one operation of several requests, unless it has a deadline of its own."""
TRIES = 3
"""How often a reading request is made."""
LARGEST = 16 << 20
"""Bytes of an answer; more is not an answer that a BMC gives."""

# Its warnings repeat what becomes a BmcError here.
logging.getLogger("sushy").addHandler(logging.NullHandler())
logging.getLogger("sushy").propagate = False


class Connector(sushy_connector.Connector):  # type: ignore[misc]  # sushy is untyped
    """sushy's connector with deadlines, and without repeating what may have been done.

    sushy's own repeats any request, also a reset, three times when no answer came.
    """

    def __init__(self, base_url: str, tls: BmcTlsSettings, where: str) -> None:
        """Speak to the BMC at `base_url`.

        Args:
            base_url: https://HOST[:PORT], without a slash at its end.
            tls: how its certificate is checked.
            where: "HOST's BMC", for errors.
        """
        super().__init__(base_url, verify=tls.ca or True, server_side_retries=1)
        self.base_url = base_url
        self.tls = tls
        self.where = where
        self.until: float | None = None
        self.hidden: tuple[str, ...] = ()
        secure(self._session, base_url, tls)
        self._session.hooks["response"].append(self._whole)

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Give all requests inside `seconds` together, or what is left of an outer limit."""
        before = self.until
        end = time.monotonic() + seconds
        self.until = end if before is None else min(before, end)
        try:
            yield
        finally:
            self.until = before

    def left(self) -> float:
        """Return the seconds that are left."""
        return OPERATION_S if self.until is None else self.until - time.monotonic()

    def json(self, path: str, tries: int = TRIES) -> dict[str, Any]:
        """Read a resource.

        Raises:
            BmcError: it is not there, or cannot be read in time.
        """
        response = self._op("GET", path, tries=tries)
        try:
            value = response.json()
        except ValueError as error:
            raise BmcError(f"{path} is not JSON", where=self.where) from error
        if not isinstance(value, dict):
            raise BmcError(f"{path} is no JSON object", where=self.where)
        return value

    def _op(self, method: str, path: str = "", *, tries: int = TRIES, **keywords: Any) -> Any:
        """Make one request, on sushy's behalf or ours."""
        for name in ("timeout", "server_side_retries_left"):
            keywords.pop(name, None)
        parts = urlsplit(path)
        if parts.netloc and f"{parts.scheme}://{parts.netloc}" != self.base_url:
            raise BmcError(f"leads to another server: {parts.netloc}", where=self.where)
        tried = 0
        while True:
            left = self.left()
            if left <= 0.05:
                raise BmcError(f"{method} {path}: no time is left", where=self.where, sent=False)
            tried += 1
            try:
                return super()._op(
                    method,
                    path,
                    timeout=(min(CONNECT_S, left), min(READ_S, left)),
                    server_side_retries_left=0,
                    **keywords,
                )
            except sushy_errors.SushyError as error:
                pause = self._pause(method, error, tried)
                # `tries` is for what the BMC answers; a connection that broke is worth a second one
                most = tries if isinstance(error, sushy_errors.HTTPError) else max(tries, 2)
                if tried >= most or pause is None or pause >= self.left():
                    raise self._in_words(method, path, error) from None

    def _pause(self, method: str, error: sushy_errors.SushyError, tried: int) -> float | None:
        """Return the seconds after which a request may be repeated, `None` when it may not."""
        wait: float = min(4.0, 0.5 * 2 ** (tried - 1)) * random.uniform(0.8, 1.2)  # noqa: S311
        if isinstance(error, sushy_errors.HTTPError):
            if any(word in str(error) for word in load_bmc_quirks().not_ready()):
                return max(wait, 2.0)  # refused for now, so nothing was done
            busy = int(error.status_code or 0) in (429, 500, 502, 503, 504)
            return wait if method == "GET" and busy else None
        cause: BaseException | None = error.__context__
        if not isinstance(error, sushy_errors.ConnectionError) or isinstance(cause, requests.exceptions.SSLError):
            return None
        return wait if method == "GET" or _never_left(cause) else None

    def _in_words(self, method: str, path: str, error: Exception) -> Exception:
        """Return what sushy must see itself (it reads errors of HTTP), or a BmcError."""
        cause = error.__context__
        known: type[Exception] = sushy_errors.HTTPError
        if isinstance(error, known):
            return error
        if isinstance(cause, requests.exceptions.SSLError):
            return self._untrusted(str(cause))
        sent = method != "GET" and not _never_left(cause)
        if isinstance(cause, requests.exceptions.Timeout):
            what = f"{method} {path}: no answer in time"
        elif isinstance(cause, requests.exceptions.InvalidURL):
            what = f"{method} {path}: {cause}"
        elif _never_left(cause):
            what = "no connection: is the BMC up and its address right?"
        else:
            what = f"{method} {path}: the connection broke"
        return BmcError(self.scrubbed(what), where=self.where, sent=sent)

    def _untrusted(self, said: str) -> BmcError:
        parts = urlsplit(self.base_url)
        seen = seen_fingerprint(str(parts.hostname), parts.port or 443)
        if self.tls.pin:
            return BmcError(
                f"its certificate is not the pinned one: it shows SHA-256 {seen or 'unknown'}",
                where=self.where,
                remedy="if it was renewed on purpose, pin that one (bmc.tls.pin); else someone else answers there",
            )
        if "CERTIFICATE_VERIFY_FAILED" in said:
            reason = said.split("certificate verify failed:")[-1].split("(_ssl")[0].strip(" :)'\"")
            return BmcError(
                f"its certificate is not trusted ({reason or 'unknown reason'}): it shows SHA-256 {seen or 'unknown'}",
                where=self.where,
                remedy="compare that with the BMC's own page and set bmc.tls.pin, or give its authority as bmc.tls.ca",
            )
        return BmcError(f"TLS fails: {said}", where=self.where)

    def scrubbed(self, text: str) -> str:
        """Return text without what is secret."""
        for secret in self.hidden:
            text = text.replace(secret, "****")
        return text

    def _whole(self, response: requests.Response, **_: Any) -> requests.Response:
        """Read a body within what is left: the read timeout alone would let one drip for hours."""
        parts, length = [], 0
        while part := response.raw.read1(65536, decode_content=True):
            parts.append(part)
            length += len(part)
            if length > LARGEST:
                raise requests.exceptions.ContentDecodingError("the answer is too large")
            if self.left() <= 0:
                raise requests.exceptions.ReadTimeout("the answer took too long")
        response._content = b"".join(parts)
        response._content_consumed = True
        # each request asks for the connection's end, and a BMC that closes it without saying so would break the next
        response.raw.close()
        return response


def _never_left(cause: BaseException | None) -> bool:
    """Tell whether a request failed before it could reach anybody."""
    if isinstance(cause, requests.exceptions.ConnectTimeout):
        return True
    reason = getattr(cause.args[0], "reason", None) if cause is not None and cause.args else None
    return isinstance(reason, urllib3.exceptions.NewConnectionError)
