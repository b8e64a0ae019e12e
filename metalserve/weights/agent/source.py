"""Where the files of a model come from: hub, HTTP mirror, S3-compatible storage, OCI registry, directory."""

from __future__ import annotations

import base64
import email.utils
import json
import os
import re
import stat
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

from .config import Job, SourceConfig, WantedFile
from .sigv4 import Keys, parse_keys, signed
from .web import TIMEOUT_S, SourceError, build, refused, same_origin, send, shown

_WANTED_SECRET = {
    "hub": "set model.hf_token to a token that may read the model, and accept the model's terms at the hub",
    "http": "set model.hf_token to a token, or to user:password, that the mirror takes",
    "s3": "set model.hf_token to ACCESS:SECRET (or ACCESS:SECRET:TOKEN) of keys that may read it",
    "oci": "set model.hf_token to user:password, or to a token, that may pull it",
}


@dataclass
class Opened:
    """The bytes of one file.

    Attributes:
        stream: to be read (`read`, `readinto`) and closed.
        start: place in the file of the stream's first byte: what was asked for, or 0 where the source cannot begin
            in the middle.
    """

    stream: BinaryIO | HTTPResponse
    start: int

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()


class Source:
    """One source; may be used by several threads at once.

    Args:
        config: where it is.
        secret: hub: a token. http: a token, or user:password. s3: ACCESS:SECRET[:TOKEN]. oci: user:password, or a
            token. Empty for none. It goes to the host of `config.base` only, and for oci to the token server which
            that host names.
        timeout_s: seconds without a byte after which a connection counts as dead.

    Raises:
        SourceError: the kind is not known, or the secret has not the form that the kind wants.
    """

    def __init__(self, config: SourceConfig, secret: str = "", *, timeout_s: float = TIMEOUT_S) -> None:
        if config.kind != "directory" and config.kind not in _WANTED_SECRET:
            raise SourceError(f"{config.kind!r} is no kind of source", remedy="see staging.kind", permanent=True)
        self._config = config
        self._secret = secret.strip()
        self._timeout_s = timeout_s
        self._keys: Keys | None = None
        if config.kind == "s3" and self._secret:
            try:
                self._keys = parse_keys(self._secret)
            except ValueError as error:
                raise SourceError(str(error), remedy=_WANTED_SECRET["s3"], permanent=True) from None
        self._lock = threading.Lock()
        self._bearer = ""
        self._clock_offset_s = 0.0

    def url(self, file: WantedFile) -> str:
        """Return where a file is."""
        if self._config.kind == "oci":
            return f"{self._config.base}/blobs/sha256:{file.sha256}"
        return f"{self._config.base}/{quote(file.path)}"

    def request(self, file: WantedFile, start: int = 0, end: int | None = None) -> urllib.request.Request:
        """Return the request for the bytes of a file from `start` to before `end` (None: to its end), authorised."""
        return self._request(self.url(file), _range(start, end))

    def open(self, file: WantedFile, start: int = 0, end: int | None = None) -> Opened:
        """Open a file of the source from `start` on, where it can; at most to before `end`, where it can.

        Raises:
            SourceError: refused, gone, of another size than the manifest says, no answer.
        """
        if self._config.kind == "directory":
            return self._open_file(file, start)
        url = self.url(file)
        answer = self.fetch(url, headers=_range(start, end))
        try:
            return Opened(answer, _first_byte(answer, file, start, shown(url)))
        except BaseException:
            answer.close()
            raise

    def fetch(self, url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> HTTPResponse:
        """Send an authorised request for any URL of the source; the answer is to be closed.

        Raises:
            SourceError: refused, gone, no answer.
        """
        for _ in range(3):
            request = self._request(url, headers or {}, method)
            try:
                return send(request, self._timeout_s)
            except urllib.error.HTTPError as error:
                with error:
                    if not self._mended(error, request):
                        raise self._error(error, url) from None
        raise SourceError(f"{shown(url)}: refuses the credentials that it gave itself", permanent=True, status=401)

    def _request(self, url: str, headers: Mapping[str, str], method: str = "GET") -> urllib.request.Request:
        return build(url, headers, self._authorisation(url, headers, method), method)

    def _authorisation(self, url: str, headers: Mapping[str, str], method: str) -> dict[str, str]:
        if not same_origin(url, self._config.base):
            return {}
        if self._config.kind == "oci":
            plain = self._secret if ":" not in self._secret else ""
            bearer = self._bearer or (f"Bearer {plain}" if plain else "")
            return {"Authorization": bearer} if bearer else {}
        if self._keys is not None:
            now = time.time() + self._clock_offset_s
            region = self._config.region or "us-east-1"
            return signed(method, url, headers, self._keys, region=region, unix_time=now)
        if not self._secret:
            return {}
        if self._config.kind == "http" and ":" in self._secret:
            return {"Authorization": _basic(self._secret)}
        return {"Authorization": f"Bearer {self._secret}"}

    def _mended(self, error: urllib.error.HTTPError, request: urllib.request.Request) -> bool:
        """Tell whether a refused request is worth sending again: with a token now, or with the source's own time."""
        if not same_origin(error.geturl() or request.full_url, request.full_url):
            return False
        if self._config.kind == "oci" and error.code == 401:
            sent = request.get_header("Authorization")
            with self._lock:
                if self._bearer and self._bearer != sent:
                    return True  # another thread has fetched one meanwhile
                self._bearer = self._token(error.headers.get("WWW-Authenticate", ""))
            return bool(self._bearer)
        if self._keys is not None and error.code == 403 and not self._clock_offset_s:
            # a host whose clock is wrong must still get its model: the time of the storage is what counts
            theirs = email.utils.parsedate_tz(error.headers.get("Date") or "")
            if b"RequestTimeTooSkewed" in _body(error) and theirs is not None:
                self._clock_offset_s = email.utils.mktime_tz(theirs) - time.time()
                return True
        return False

    def _token(self, challenge: str) -> str:
        """Return what a registry's 401 asks for: https://distribution.github.io/distribution/spec/auth/token/."""
        kind, _, rest = challenge.partition(" ")
        asked = dict(re.findall(r'([a-z]+)="([^"]*)"', rest))
        if kind.lower() == "basic" and ":" in self._secret:
            return _basic(self._secret)
        realm = asked.pop("realm", "")
        if kind.lower() != "bearer" or not realm or (self._secret and ":" not in self._secret):
            return ""
        if urlsplit(realm).scheme != "https" and urlsplit(self._config.base).scheme == "https":
            raise SourceError(f"{shown(realm)}: the registry wants credentials sent over plain http", permanent=True)
        query = urlencode({name: asked[name] for name in ("service", "scope") if name in asked})
        url = f"{realm}{'&' if '?' in realm else '?'}{query}"
        try:
            headers = {"Authorization": _basic(self._secret)} if self._secret else {}
            with send(build(url, {}, headers), self._timeout_s) as answer:
                data: Any = json.loads(answer.read(1 << 20))
            token = data.get("token") or data.get("access_token")
        except urllib.error.HTTPError as error:
            with error:
                raise self._error(error, url) from None
        except (OSError, HTTPException, ValueError, AttributeError) as error:
            raise SourceError(f"{shown(realm)}: gives no token: {type(error).__name__}") from None
        return f"Bearer {token}" if isinstance(token, str) and token.isprintable() else ""

    def _error(self, error: urllib.error.HTTPError, url: str) -> SourceError:
        if self._config.kind == "s3":
            body = _body(error)
            code = re.search(rb"<Code>(\w+)</Code>", body)
            region = error.headers.get("x-amz-bucket-region") or ""
            if error.code in (301, 307) or (code and code.group(1) == b"AuthorizationHeaderMalformed"):
                named = re.search(rb"<Region>([\w-]+)</Region>", body)
                region = region or (named.group(1).decode() if named else "")
                what = f"{shown(url)}: the bucket is in another region" + (f", {region}" if region else "")
                return SourceError(what, remedy="set staging.region", permanent=True, status=error.code)
            made = refused(error, url, _WANTED_SECRET["s3"])
            if code:
                made = SourceError(
                    f"{made.what} {code.group(1).decode()}",
                    remedy=made.remedy,
                    permanent=made.permanent,
                    status=made.status,
                    retry_after_s=made.retry_after_s,
                )
            return made
        return refused(error, url, _WANTED_SECRET[self._config.kind])

    def _open_file(self, file: WantedFile, start: int) -> Opened:
        path = os.path.join(self._config.base, file.path)
        try:
            # not blocking: a pipe of that name would wait for ever
            stream = open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            permanent = isinstance(error, (FileNotFoundError, PermissionError))
            raise SourceError(f"{path}: cannot be read: {error.strerror}", permanent=permanent) from None
        try:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SourceError(f"{path}: is not a plain file", permanent=True)
            if status.st_size != file.size:
                raise _wrong_size(path, status.st_size, file)
            stream.seek(start)
        except BaseException:
            stream.close()
            raise
        return Opened(stream, start)


def source_of(job: Job) -> Source:
    """Return the source of a job, with its secret where there is one.

    Raises:
        SourceError: as `Source`, or the secret cannot be read.
    """
    secret = ""
    try:
        secret = Path(job.authorisation).read_text(encoding="utf-8") if job.authorisation else ""
    except FileNotFoundError:
        pass  # it lives for one staging; a source that wants none is read without it
    except (OSError, UnicodeDecodeError) as error:
        what = f"{job.authorisation}: cannot be read: {error}"
        raise SourceError(what, remedy="run the weights role again", permanent=True) from error
    return Source(job.source, secret)


def _basic(secret: str) -> str:
    return "Basic " + base64.b64encode(secret.encode()).decode("ascii")


def _body(error: urllib.error.HTTPError) -> bytes:
    """Return the beginning of an error's text; asked for twice it is the same."""
    kept: bytes | None = getattr(error, "metalserve_body", None)
    if kept is None:
        try:
            kept = error.read(65536)
        except (OSError, HTTPException):
            kept = b""
        error.metalserve_body = kept  # type: ignore[attr-defined]
    return kept


def _range(start: int, end: int | None) -> dict[str, str]:
    if end is not None:
        return {"Range": f"bytes={start}-{end - 1}"}
    return {"Range": f"bytes={start}-"} if start else {}


def _wrong_size(where: str, size: int, file: WantedFile) -> SourceError:
    return SourceError(
        f"{where}: has {size} bytes at the source instead of {file.size}",
        remedy="the manifest is of another revision: check it with `metalserve weights manifest --check`",
        permanent=True,
    )


def _first_byte(answer: HTTPResponse, file: WantedFile, start: int, where: str) -> int:
    """Return the place of an answer's first byte in the file."""
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise SourceError(f"{where}: is sent compressed, which was not asked for", permanent=True)
    if answer.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
        if match is None or int(match.group(1)) != start:
            raise SourceError(f"{where}: gives another range than was asked for")
        if match.group(2) != "*" and int(match.group(2)) != file.size:
            raise _wrong_size(where, int(match.group(2)), file)
        return start
    if answer.status != 200:
        raise SourceError(f"{where}: HTTP {answer.status} where a file was expected", status=answer.status)
    length = answer.headers.get("Content-Length", "")
    if length.isdigit() and int(length) != file.size:
        raise _wrong_size(where, int(length), file)
    return 0
