"""Certificates: verified or pinned, never neither; and nothing secret goes to anybody else."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from metalserve.bmc.errors import BmcError
from metalserve.bmc.tls import seen_fingerprint
from tests.bmc.conftest import PASSWORD, Fake


def test_a_self_signed_certificate_is_refused_without_a_pin_and_its_fingerprint_told(fake: Fake) -> None:
    with pytest.raises(BmcError, match="not trusted") as caught:
        fake.client(tls=None).power()
    assert fake.pin in str(caught.value)
    assert fake.asked() == []  # nothing was asked, so no password was sent


def test_another_certificate_than_the_pinned_one_is_refused_before_anything_is_sent(fake: Fake) -> None:
    client = fake.client()
    client.power()
    client.close()
    asked = len(fake.asked())
    fake.fault("certificate-changed")
    again = fake.client()
    with pytest.raises(BmcError, match=r"not the pinned one: it shows SHA-256 [0-9a-f]{64}"):
        again.power()
    assert len(fake.asked()) == asked


def test_the_pin_is_compared_on_every_connection(fake: Fake) -> None:
    client = fake.client()
    client.power()
    fake.fault("certificate-changed")
    with pytest.raises(BmcError, match="not the pinned one"):
        client.power()


def test_an_authority_of_ones_own_verifies_name_and_certificate(fake: Fake, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    text = (fake.directory / "server.pem").read_text()
    authority.write_text(text[text.index("-----BEGIN CERTIFICATE-----") :])
    assert fake.client(tls={"ca": str(authority)}).power() == "off"
    with pytest.raises(BmcError, match="not trusted"):
        fake.client(tls={"ca": str(authority)}, address=f"localhost:{fake.server.port}").power()


def test_an_answer_cannot_lead_elsewhere(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalserve.lab.bmc import tree

    right = tree.resource

    def leading(board: Any, path: str) -> Any:
        body = right(board, path)
        if body is not None and path.endswith("/Systems"):
            body["Members"] = [{"@odata.id": "https://192.0.2.9/redfish/v1/Systems/1"}]
        return body

    monkeypatch.setattr(tree, "resource", leading)
    with pytest.raises(BmcError, match=r"leads to another server: 192\.0\.2\.9"):
        fake.client().identity()


def test_a_redirect_elsewhere_is_not_followed(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalserve.lab.bmc import server

    client = fake.client()
    client.power()

    def redirect(self: server._Handler, path: str, body: dict[str, Any]) -> None:
        self._send(302, {}, {"Location": "http://127.0.0.1:9/elsewhere"})

    monkeypatch.setattr(server._Handler, "_get", redirect)
    with pytest.raises(BmcError, match="led away from the BMC"):
        client.power()


def test_the_environment_has_no_say(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(fake.directory / "server.pem"))
    with pytest.raises(BmcError, match="not trusted"):
        fake.client(tls=None).power()
    assert fake.client().power() == "off"


def test_a_password_that_a_bmc_repeats_is_not_shown(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalserve.lab.bmc import server

    def repeat(self: server._Handler, path: str, body: dict[str, Any]) -> None:
        raise server._Refused(400, "Base.1.8.GeneralError", f"bad session of {PASSWORD}")

    client = fake.client()
    client.power()
    monkeypatch.setattr(server._Handler, "_get", repeat)
    with pytest.raises(BmcError, match=r"bad session of \*\*\*\*"):
        client.power()


def test_a_fingerprint_is_read_without_saying_anything(fake: Fake) -> None:
    assert seen_fingerprint("127.0.0.1", fake.server.port) == fake.pin
    assert seen_fingerprint("127.0.0.1", 1, timeout_s=1) == ""
    assert fake.asked() == []


def test_the_private_key_is_not_readable_by_others(fake: Fake) -> None:
    assert (fake.directory / "server.pem").stat().st_mode & 0o077 == 0
    ssl.create_default_context(cafile=str(fake.directory / "server.pem"))
