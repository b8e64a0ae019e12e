"""Requests to a source over HTTP: redirects that take no secret along, and errors in one line."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

TIMEOUT_S = 60.0
"""Seconds without a byte after which a connection counts as dead."""

AGENT = "metalserve-weights"


class SourceError(Exception):
    """The source refused, failed, or gave something else than what the manifest says.

    Attributes:
        what: what is wrong, with the URL it is about (never its query, which may hold a signature).
        remedy: what to do about it.
        permanent: asking again brings the same; otherwise it is worth another try.
        status: of the HTTP answer, or 0.
        retry_after_s: seconds that the source asks to wait.
    """

    def __init__(
        self, what: str, *, remedy: str = "", permanent: bool = False, status: int = 0, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(f"{what} -> {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy
        self.permanent = permanent
        self.status = status
        self.retry_after_s = retry_after_s


def shown(url: str) -> str:
    """Return a URL as it may be shown: without its query and without credentials."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def same_origin(one: str, other: str) -> bool:
    """Tell whether two URLs are of the same scheme, host and port."""
    return _origin(urlsplit(one)) == _origin(urlsplit(other))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; authorisation, which urllib does not carry over at all, goes on to the same origin only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise SourceError(f"{shown(req.full_url)} redirects to something that is not HTTP", permanent=True)
        if "x-amz-date" in {name.lower() for name in req.unredirected_hdrs}:
            return None  # a signature is for one URL
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is None:
            return None
        following.method = req.get_method()  # Python before 3.13 makes a GET of a HEAD
        if same_origin(req.full_url, newurl):
            for name, value in req.unredirected_hdrs.items():
                if name.lower() != "host":
                    following.add_unredirected_header(name, value)
        return following

    def http_error_308(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        # Python 3.9 and 3.10 do not know 308, which registries send
        return self.http_error_302(req, fp, 307, msg, headers)


_OPENER = urllib.request.build_opener(_Redirects())


def build(
    url: str, headers: Mapping[str, str], private: Mapping[str, str], method: str = "GET"
) -> urllib.request.Request:
    """Return a request; `private` headers reach no other origin than that of `url`."""
    request = urllib.request.Request(url, method=method)  # noqa: S310 - the scheme is looked at by `send`
    for name, value in {"User-Agent": AGENT, "Accept-Encoding": "identity", **headers}.items():
        request.add_header(name, value)
    for name, value in private.items():
        request.add_unredirected_header(name, value)
    return request


def send(request: urllib.request.Request, timeout_s: float = TIMEOUT_S) -> http.client.HTTPResponse:
    """Send a request and return the answer, whose body is still to be read.

    Raises:
        urllib.error.HTTPError: an answer of status 400 and above, or a redirect that cannot be followed.
        SourceError: no answer.
    """
    where = shown(request.full_url)
    if request.type not in ("http", "https"):
        raise SourceError(f"{where}: is not an http(s) URL", permanent=True)
    try:
        return cast(http.client.HTTPResponse, _OPENER.open(request, timeout=timeout_s))
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise SourceError(
                f"{where}: its certificate is refused: {reason.verify_message}",
                remedy="check the clock and the CA certificates of this host",
                permanent=True,
            ) from None
        raise SourceError(f"{where}: no answer: {reason or type(error).__name__}") from None
    except ValueError as error:
        raise SourceError(f"{where}: {error}", permanent=True) from None


def refused(error: urllib.error.HTTPError, url: str, remedy: str) -> SourceError:
    """Return the error that an HTTP status stands for.

    Args:
        error: what `send` raised.
        url: what was asked for.
        remedy: what to do when the source wants other credentials.
    """
    status, where = error.code, shown(url)
    # where a CDN's signed URL ran out, the source gives a new one when asked again
    elsewhere = not same_origin(error.geturl() or url, url)
    if elsewhere and status in (401, 403):
        return SourceError(f"{where}: the storage it redirects to refused (HTTP {status})", status=status)
    if status in (401, 403):
        return SourceError(f"{where}: refused (HTTP {status})", remedy=remedy, permanent=True, status=status)
    if status in (404, 410):
        return SourceError(
            f"{where}: does not exist (HTTP {status})",
            remedy="check name, revision and source of the model",
            permanent=True,
            status=status,
        )
    wait = error.headers.get("Retry-After", "") if error.headers else ""
    seconds = float(wait) if wait.isdigit() else 0.0
    permanent = status < 500 and status not in (408, 416, 425, 429)
    return SourceError(f"{where}: HTTP {status}", permanent=permanent, status=status, retry_after_s=seconds)
