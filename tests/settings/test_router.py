"""A router's settings: what they refuse, what they warn of, and the secrets they name."""

from __future__ import annotations

from typing import Any

import pytest

from metalserve.inventory import check_secrets
from metalserve.secrets import SecretError, resolve_pem
from metalserve.settings import HostSettings, SecretRef, SettingsError
from tests.settings.samples import host_data, problems

KEY = {"name": "team-a", "key": {"env": "MS_CLIENT"}}


def router(**given: Any) -> dict[str, Any]:
    return {"release": "2026.11-lts", "router": given}


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (router(redirect_port=80), "router.redirect_port: has nothing to send clients on to"),
        (router(metrics_port=8080), "router.metrics_port: is 8080, as router.port is"),
        (router(tls={}), "router.tls: must have exactly one of pem, path, self_signed"),
        (router(tls={"self_signed": True, "path": "/x"}), "router.tls: must have exactly one"),
        (router(keys=[KEY, KEY]), "router: keys: two have the same name"),
        (router(keys=[{**KEY, "name": "a b"}]), "router.keys.0.name: must be letters, digits"),
        (router(keys=[{"name": "a", "key": "sk-1234"}]), "router.keys.0.key: must be a dict of settings"),
        (router(paths=["/metrics"]), "router.paths.0: must be one of '/v1/chat/completions'"),
        (router(paths=[]), "router.paths: must not be empty"),
        (router(affinity_header="X-A\r\nB"), "router.affinity_header: must be the name of a header"),
        (router(names={"a b": "m"}), "router.names: must map names"),
        (router(engine="vllm-router", affinity="prefix"), "router.affinity: is for router.engine 'haproxy'"),
        (router(address="0.0.0.0 ssl"), "router.address: must be an address or a host name"),
        (host_data(router={"port": 8003}), "router.port: is 8003, which an engine of this host has"),
    ],
)
def test_what_is_refused(data: dict[str, Any], line: str) -> None:
    assert any(found.startswith(line) for found in problems(data)), problems(data)


def test_what_should_be_known() -> None:
    def warned(**given: Any) -> str:
        return "\n".join(HostSettings.from_data(router(**given), host="h", source="s").warnings())

    assert "router.keys: none is set" in warned()
    assert "router.tls: none is set" in warned(keys=[KEY])
    assert "router.tls.self_signed" in warned(keys=[KEY], tls={"self_signed": True})
    assert "router.metrics_address" in warned(metrics_address="0.0.0.0")
    assert warned(keys=[KEY], tls={"path": "/etc/ssl/router.pem"}) == ""
    assert warned(address="127.0.0.1") == ""


def test_missing_keys_stop_a_run_before_any_host_is_contacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MS_CLIENT", raising=False)
    monkeypatch.delenv("MS_PEM", raising=False)
    settings = HostSettings.from_data(router(keys=[KEY], tls={"pem": {"env": "MS_PEM"}}), host="door", source="s")
    with pytest.raises(SettingsError) as refused:
        check_secrets({"door": settings}, "prod.py")
    assert "prod.py: door: router.keys.team-a: environment variable MS_CLIENT: is not set" in str(refused.value)
    assert "prod.py: door: router.tls.pem: environment variable MS_PEM: is not set" in str(refused.value)


def test_a_pem_is_read_whole_and_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pem = "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\nMIIB\n"
    monkeypatch.setenv("MS_PEM", pem)
    assert resolve_pem(SecretRef(env="MS_PEM")).reveal() == pem
    for part, lacking in ((pem.split("-----BEGIN CERT")[0], "CERTIFICATE"), (pem[pem.index("-----BEGIN C") :], "KEY")):
        monkeypatch.setenv("MS_PEM", part)
        with pytest.raises(SecretError, match=lacking) as refused:
            resolve_pem(SecretRef(env="MS_PEM"))
        assert "MII" not in str(refused.value)
