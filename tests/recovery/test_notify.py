"""News by webhook: in both formats, not twice, not too many, tried again, and never with the address in sight."""

from __future__ import annotations

import json
import threading
import urllib.error
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from metalserve.errors import MetalserveError
from metalserve.recovery.notify import HOURLY, SAME_S, TRIES, News, Notifier, body, parse_target

URL = "https://hooks.example/T0/B0/very-secret"
NEWS = News("quarantined", "gpu-7", "the GPU <4e> & its neighbour", {"causes": ["gpu-off-bus"]})


class Net:
    """Takes what is sent; fails as often as told."""

    def __init__(self, *failures: OSError) -> None:
        self.failures, self.sent, self.said, self.now = list(failures), [], [], 1000.0  # type: ignore[var-annotated]

    def notifier(self, target: str = "json:env:MS_TEST_HOOK", **more: Any) -> Notifier:
        return Notifier(
            [parse_target(target)], complain=self.said.append, send=self._send, clock=lambda: self.now,
            sleep=lambda seconds: None, **more,
        )  # fmt: skip

    def _send(self, url: str, message: bytes) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append((url, json.loads(message)))


@pytest.fixture(autouse=True)
def hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_TEST_HOOK", URL)


def refused(code: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError(URL, code, "no", Message(), None)


def test_both_formats() -> None:
    value = json.loads(body(NEWS, "json", simulated=True, at=5.0))
    assert value["kind"] == "quarantined" and value["simulated"] is True and value["more"]["causes"] == ["gpu-off-bus"]
    slack = json.loads(body(NEWS, "slack", simulated=True, at=5.0))
    assert slack == {"text": "*gpu-7*: quarantined [simulated]: the GPU &lt;4e&gt; &amp; its neighbour"}


def test_the_same_news_is_told_once_an_hour() -> None:
    net = Net()
    notifier = net.notifier()
    assert [notifier.tell(NEWS), notifier.tell(NEWS)] == [True, False]
    net.now += SAME_S + 1
    assert notifier.tell(NEWS) and len(net.sent) == 2


def test_a_storm_is_counted_and_not_sent() -> None:
    net = Net()
    notifier = net.notifier()
    for number in range(HOURLY + 7):
        notifier.tell(News("stopped", f"gpu-{number}", "x"))
    assert len(net.sent) == HOURLY
    net.now += 3601
    assert notifier.tell(News("stopped", "last", "x"))
    assert net.sent[-1][1]["left_out"] == 7


def test_it_is_tried_again_and_then_given_up_without_showing_the_address() -> None:
    net = Net(TimeoutError(), refused(503))
    assert net.notifier().tell(NEWS) and net.said == []
    net = Net(*(refused(503) for _ in range(TRIES)))
    assert not net.notifier().tell(NEWS)
    (said,) = net.said
    assert f"after {TRIES} tries" in said and "503" in said and "secret" not in said


def test_what_is_refused_for_good_is_not_tried_again() -> None:
    net = Net(refused(404), refused(404))
    assert not net.notifier().tell(NEWS)
    assert len(net.failures) == 1 and "404" in net.said[0]


def test_an_address_in_the_clear_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_TEST_HOOK", "http://hooks.example/very-secret")
    net = Net()
    assert not net.notifier().tell(NEWS)
    assert net.sent == [] and "https" in net.said[0] and "secret" not in net.said[0]


@pytest.mark.parametrize("text", [URL, "slack", "slack:env:", "slack:" + URL, "mail:env:X", "json:env:hf_lower"])
def test_a_target_that_is_none_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(MetalserveError) as caught:
        parse_target(text)
    assert "very-secret" not in str(caught.value) and "hf_lower" not in str(caught.value)


def test_a_real_server_gets_it_and_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if self.path == "/hook" else 302)
            self.send_header("Location", "/hook")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    said: list[str] = []
    try:
        monkeypatch.setenv("MS_TEST_HOOK", f"http://127.0.0.1:{server.server_port}/hook")
        assert Notifier([parse_target("slack:env:MS_TEST_HOOK")], complain=said.append).tell(NEWS)
        monkeypatch.setenv("MS_TEST_HOOK", f"http://127.0.0.1:{server.server_port}/elsewhere")
        assert not Notifier([parse_target("json:env:MS_TEST_HOOK")], complain=said.append).tell(NEWS)
    finally:
        server.shutdown()
    assert len(got) == 2 and "302" in said[0]
