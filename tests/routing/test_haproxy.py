"""The configuration: kept as files for typical fleets, and held to HAProxy itself for any settings."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from metalserve.catalogue.vllm_router import router_problem
from metalserve.errors import MetalserveError
from metalserve.routing import paths
from metalserve.routing.haproxy import LOG, Facts, configuration
from metalserve.routing.prefix import arguments, assign
from metalserve.settings import RouterSettings
from tests.routing.fleets import FLEETS, found, peer, router, text_of

DATA = Path(__file__).parent / "data"
HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/sbin")
installed = pytest.mark.skipif(HAPROXY is None, reason="needs the haproxy package")


@pytest.mark.parametrize("name", FLEETS)
def test_the_configuration_of_a_typical_fleet(name: str) -> None:
    """After a wanted change: `python -m tests.routing.write`, then read what changed."""
    assert text_of(name) == (DATA / f"{name}.cfg").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what a configuration reads: maps, a certificate, the servers' state."""
    directory = tmp_path_factory.mktemp("router")
    (directory / "client-keys.map").write_text(f"{'A' * 64} team-a\n")
    (directory / "engine-keys.map").write_text("model-llama key\n")
    (directory / "servers").write_text("1\n")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", directory / "key",
         "-out", directory / "cert"],
        capture_output=True,
        check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("needs openssl")
    (directory / "tls.pem").write_text((directory / "key").read_text() + (directory / "cert").read_text())
    return directory


def judged(text: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Have HAProxy check a configuration, with its files in `place` and as whoever runs the test."""
    text = text.replace(paths.DIRECTORY, str(place)).replace(paths.SERVERS, str(place / "servers"))
    text = text.replace(paths.RUN, str(place))
    kept = [line for line in text.splitlines() if line.strip() not in ("user haproxy", "group haproxy")]
    kept = [line for line in kept if not line.strip().startswith("chroot ")]
    file = place / "haproxy.cfg"
    file.write_text("\n".join(kept) + "\n")
    assert HAPROXY is not None
    return subprocess.run([HAPROXY, "-c", "-f", file], capture_output=True, text=True, check=False)


@installed
@pytest.mark.parametrize("name", FLEETS)
def test_haproxy_takes_it_without_a_word(name: str, place: Path) -> None:
    done = judged(text_of(name), place)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr and "ALERT" not in done.stderr


names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
models = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_./:-]{0,30}", fullmatch=True)
ports = st.integers(1, 65535)
routers = st.fixed_dictionaries(
    {},
    optional={
        "engine": st.sampled_from(["haproxy", "vllm-router"]),
        "address": st.sampled_from(["0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "2001:db8::1"]),
        "port": ports,
        "redirect_port": st.none() | ports,
        "tls": st.sampled_from([None, {"self_signed": True}, {"path": "/etc/ssl/x.pem"}]),
        "keys": st.lists(
            st.fixed_dictionaries(
                {"name": names, "key": st.just({"env": "KEY"})},
                optional={"requests_per_minute": st.none() | st.integers(1, 10**9)},
            ),
            max_size=3,
        ),
        "backends": st.lists(
            st.fixed_dictionaries(
                {"name": names, "address": st.sampled_from(["192.0.2.7", "::1", "localhost"]), "port": ports,
                 "model": models}
            ),
            max_size=3,
        ),
        "names": st.dictionaries(models, st.just("llama"), max_size=2),
        "paths": st.lists(
            st.sampled_from(["/v1/chat/completions", "/v1/models", "/v1/responses", "/v1/messages"]),
            min_size=1, max_size=4,
        ),
        "affinity": st.sampled_from(["none", "session", "prefix"]),
        "affinity_header": st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,10}", fullmatch=True),
        "requests_per_replica": st.integers(1, 4096),
        "queue": st.integers(1, 100000),
        "queue_timeout_s": st.integers(1, 10**6),
        "retries": st.integers(0, 10),
        "response_timeout_s": st.integers(1, 10**6),
        "check_interval_s": st.integers(1, 10**5),
        "check_timeout_s": st.integers(1, 10**5),
        "move_when_down": st.booleans(),
        "max_body_kib": st.integers(16, 65536),
        "max_connections": st.integers(1, 100000),
    },
)  # fmt: skip


@installed
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=routers)
def test_whatever_the_settings_allow_haproxy_takes(place: Path, data: dict[str, Any]) -> None:
    try:
        chosen = RouterSettings.model_validate(data)
    except ValidationError:
        return
    try:
        pools = found(chosen, peer("gpu-01"), peer("gpu-02", model="org/qwen"))
        upstream = assign(chosen, pools)
    except MetalserveError:
        return
    text = configuration(chosen, pools, Facts("0" * 16, frozenset({pools[0].name}), upstream))
    done = judged(text, place)
    assert done.returncode == 0, done.stderr


def test_nothing_of_what_a_client_wrote_is_logged() -> None:
    fields = {word.partition("=")[2] for word in LOG.split()}
    # method, URI, query and captured headers or cookies would be: %r %HU %HP %HQ %hr %hs %CC
    assert not fields & {"%r", "%HU", "%HP", "%HPO", "%HQ", "%HV", "%hr", "%hs", "%CC", "%CS"}
    assert "%[var(txn.path)]" in LOG.replace("path=", " ")
    text = text_of("two-models-tls")
    assert text.index("this path is not served here") < text.index("set-var(txn.path)")
    assert "capture" not in text


def test_only_what_is_listed_is_reached() -> None:
    text = configuration(router(paths=["/v1/completions"]), found(router(), peer("gpu-01")), Facts("0"))
    assert "acl generates path -m str /v1/completions\n" in text
    assert "lists" not in text
    with pytest.raises(ValidationError):
        router(paths=["/invocations"])
    with pytest.raises(ValidationError):
        router(paths=["/v1/load_lora_adapter"])


def test_with_keys_of_its_own_the_router_never_hands_a_clients_key_on() -> None:
    keyed = router(keys=[{"name": "a", "key": {"env": "K"}}])
    pools = found(keyed, peer("gpu-01"))
    assert "del-header Authorization" in configuration(keyed, pools, Facts("0"))
    with_key = configuration(keyed, pools, Facts("0", frozenset({"model-llama"})))
    assert "set-header Authorization" in with_key and "del-header" not in with_key
    # and without keys of its own it lets the engine judge the client's
    open_text = configuration(router(), pools, Facts("0", frozenset({"model-llama"})))
    assert "http-request set-header Authorization" not in open_text
    assert "hdr Authorization" in open_text, "the readiness check still has the engine's key"


def test_vllm_router_is_given_what_its_help_knows_and_no_key() -> None:
    chosen = router(engine="vllm-router", retries=0)
    pools = found(chosen, peer("gpu-01"), peer("gpu-02", model="org/qwen"))
    ports = assign(chosen, pools)
    words = arguments(chosen, ports["model-llama"])
    assert words[:2] == ("--host", "127.0.0.1") and "--api-key" not in words and "--disable-retries" in words
    assert [word for word in words if word.startswith("http")] == ["http://127.0.0.1:18102", "http://127.0.0.1:18103"]
    text = configuration(chosen, pools, Facts("0" * 16, frozenset(), ports))
    assert "default_backend" not in text.split("frontend api")[1].split("\n\n")[0]
    # what vllm-router is shown as health is readiness by a token, and drain
    worker = text.split("frontend worker-model-llama::gpu-01:8000\n")[1].split("\n\n")[0]
    assert "bind 127.0.0.1:18102" in worker and "monitor fail unless up" in worker
    assert "nbsrv(model-llama::gpu-01:8000) gt 0" in worker


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--policy", "kv_aware"], ""),
        (["--worker-urls", "http://a", "http://b", "--port", "1"], ""),
        (["--polisy", "x"], "no option --polisy"),
        (["--policy", "fastest"], "takes one of"),
        (["--port"], "needs a value"),
        (["--port", "1", "2"], "no option 2"),
        (["--mini-lb", "on"], "no option on"),
    ],
)
def test_vllm_routers_arguments_are_held_to_its_help(words: list[str], problem: str) -> None:
    assert problem in router_problem(words)
    assert bool(router_problem(words)) == bool(problem)


@pytest.mark.parametrize("name", FLEETS)
def test_a_server_of_another_port_has_another_name(name: str) -> None:
    """HAProxy takes a server's port from the state that it saved under the name."""
    servers = [line.split()[1:3] for line in text_of(name).splitlines() if line.strip().startswith("server ")]
    assert servers
    assert all(called.rpartition(":")[2] == target.rpartition(":")[2] for called, target in servers)
