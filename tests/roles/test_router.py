"""What the router's role wants, by tables: settings and observation in, changes out; a second run wants nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metalserve.desired.model import Desired, NotYetKnown
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.hardware.section import Section
from metalserve.routing import paths
from metalserve.routing.pools import Peer
from roles.router import desired
from tests.roles.helpers import a_file, after, changes, make_node, unit
from tests.routing.fleets import peer

ENGINE_KEY, CLIENT_KEY = "engine-key-81b2", "client-key-44aa"
ROUTER: dict[str, Any] = {
    "tls": {"self_signed": True},
    "port": 443,
    "keys": [{"name": "team-a", "key": {"env": "CLIENT_KEY"}}],
}
PEERS = (peer("gpu-01", api_key={"env": "ENGINE_KEY"}), peer("gpu-02", (0,), api_key={"env": "ENGINE_KEY"}))


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", ENGINE_KEY)
    monkeypatch.setenv("CLIENT_KEY", CLIENT_KEY)


def door(**router: Any) -> Node:
    return make_node(settings={"router": {**ROUTER, **router}}, gpus=())


def settled(node: Node, peers: tuple[Peer, ...] = PEERS) -> Node:
    """Return the router's host once all stages have come true."""
    node = after(node, desired.install(node))
    certificate = a_file(paths.CERTIFICATE, "made", mode="0600")
    seen = replace(node.observed, files={**node.observed.files, paths.CERTIFICATE: certificate})
    node = node.with_observation(seen)
    node = after(node, desired.configure(node, peers))
    record = next(f for f in desired.configure(node, peers).files if f.path == paths.RECORD)
    assert node.settings.router is not None
    text, generation = desired.configured(node, node.settings.router, peers)
    told = {
        desired.STATE_SECTION: f"generation {generation}\n{STATE}",
        desired.RECORD_SECTION: record.content or "",
        desired.DISTRIBUTION_SECTION: "",
    }
    node = after(node, desired.route(node, peers), sections=told)
    files = {**node.observed.files, paths.CONFIGURATION: a_file(paths.CONFIGURATION, text, mode="0600")}
    return node.with_observation(replace(node.observed, files=files))


def stages(node: Node, peers: tuple[Peer, ...] = PEERS) -> list[str]:
    wishes = (desired.install(node), desired.configure(node, peers), desired.route(node, peers))
    return [change for wish in wishes for change in changes(wish, node)]


HEAD = "# pxname,svname,qcur,scur,stot,status,check_status,check_code,last_chk,"
STATE = f"""{HEAD}
model-llama,gpu-01:8000,0,1,9,UP,L7OK,200,,
model-llama,gpu-01:8001,0,0,9,UP 1/3,L7OK,200,,
model-llama,gpu-02:8000,0,0,9,DRAIN,L7OK,200,,
model-llama,BACKEND,0,1,27,UP,,,,
"""


def test_from_a_bare_host_to_a_router_that_needs_nothing_more() -> None:
    bare = stages(door())
    assert {f"package {name}: absent -> installed" for name in ("haproxy", "socat", "openssl")} <= set(bare)
    assert "make a self-signed certificate" in bare
    assert any(change.startswith("load router configuration ") for change in bare)
    assert bare[-1] == "unit metalserve-router.service: absent -> enable, start"
    assert stages(settled(door())) == []


def test_a_host_that_is_no_router_is_left_alone() -> None:
    plain = make_node(gpus=())
    assert stages(plain) == []
    assert desired.check(plain) == ()
    assert desired.watch(plain.settings, plain.release).commands == {}


def test_a_host_that_is_no_router_any_more_answers_no_clients() -> None:
    was = make_node(gpus=(), files={paths.UNIT_PATH: "x", paths.PREFIX_GLOB.replace("*", "model-a"): "x"})
    wish = desired.route(was, ())
    assert changes(wish, was) == [
        "end the router, which this host is no longer",
        "end metalserve-prefix-model-a.service",
    ]
    assert f"rm -rf {paths.UNIT_PATH} {paths.DIRECTORY}" in wish.actions[-1].script


@pytest.mark.parametrize(
    ("what", "peers", "router"),
    [
        ("an engine more", (PEERS[0], replace(PEERS[1], replicas=(0, 1))), {}),
        ("another address", (PEERS[0], replace(PEERS[1], address="192.0.2.77")), {}),
        ("a limit", PEERS, {"queue": 10}),
        ("a client more", PEERS, {"keys": [*ROUTER["keys"], {"name": "b", "key": {"env": "ENGINE_KEY"}}]}),
    ],
)
def test_what_is_loaded_is_loaded_anew_when_it_changes(what: str, peers: tuple[Peer, ...], router: Any) -> None:
    now = settled(door())
    changed = replace(now, settings=door(**router).settings)
    assert any(change.startswith("load router configuration") for change in stages(changed, peers)), what


def test_a_key_that_was_changed_is_loaded_though_the_configuration_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    now = settled(door())
    before = desired.configured(now, now.settings.router, PEERS)  # type: ignore[arg-type]
    monkeypatch.setenv("ENGINE_KEY", "rotated-key-1")
    found = stages(now)
    assert found[0] == f"file {paths.ENGINE_KEYS}: content"
    assert found[1].startswith("load router configuration") and before[1] not in found[1]


def test_a_run_that_was_cut_off_before_the_reload_is_made_good() -> None:
    now = settled(door())
    old = Section("generation 0000000000000000\n" + STATE)
    stale = now.with_observation(replace(now.observed, sections={**now.observed.sections, desired.STATE_SECTION: old}))
    assert [change.split(" ")[0] for change in stages(stale)] == ["load"]


def test_a_host_that_is_not_seen_keeps_its_replicas() -> None:
    now = settled(door())
    unseen = (replace(PEERS[0], replicas=None), PEERS[1])
    assert stages(now, unseen) == []


def test_secrets_are_only_in_files_of_roots_alone() -> None:
    node = settled(door())
    wishes = (desired.configure(node, PEERS), desired.route(node, PEERS))
    for wish in wishes:
        for file in wish.files:
            if ENGINE_KEY in (file.content or ""):
                assert file.secret and file.mode == "0600" and file.path == paths.ENGINE_KEYS
            assert CLIENT_KEY not in (file.content or ""), "a hash will do"
        for action in wish.actions:
            assert ENGINE_KEY not in action.script + action.name and CLIENT_KEY not in action.script + action.name
    text, _ = desired.configured(node, node.settings.router, PEERS)  # type: ignore[arg-type]
    assert ENGINE_KEY not in text and CLIENT_KEY not in text


def test_two_clients_with_one_key_are_refused() -> None:
    twice = [{"name": name, "key": {"env": "CLIENT_KEY"}} for name in ("a", "b")]
    with pytest.raises(MetalserveError, match="two of them are the same key"):
        desired.configure(door(keys=twice), PEERS)


def test_a_certificate_of_the_hosts_own_is_followed(tmp_path: Path) -> None:
    node = settled(door())
    own = replace(node, settings=door(tls={"path": "/etc/ssl/router.pem"}).settings)
    assert "/etc/ssl/router.pem" in desired.watch(own.settings, own.release).paths
    renewed = replace(own.observed, files={**own.observed.files, "/etc/ssl/router.pem": a_file("x", "renewed")})
    found = changes(desired.configure(own.with_observation(renewed), PEERS), own.with_observation(renewed))
    assert found == ["take over the certificate of /etc/ssl/router.pem"]


def test_the_operators_own_haproxy_is_not_stopped() -> None:
    theirs = make_node(
        settings={"router": ROUTER},
        gpus=(),
        units={"haproxy.service": unit("haproxy.service")},
        sections={desired.DISTRIBUTION_SECTION: "??5?????? c /etc/haproxy/haproxy.cfg"},
    )
    names = [wanted.name for wanted in desired.route(theirs, PEERS).units]
    assert "haproxy.service" not in names
    packages = make_node(settings={"router": ROUTER}, gpus=(), units={"haproxy.service": unit("haproxy.service")})
    assert "unit haproxy.service: enabled/active -> disable, stop" in changes(desired.route(packages, PEERS), packages)


def test_an_old_haproxy_is_refused() -> None:
    old = make_node(settings={"router": ROUTER}, gpus=(), packages={"haproxy": "2.2.9-2+deb11u7"})
    with pytest.raises(MetalserveError, match=r"HAProxy 2\.2\.9.* is older than 2\.4"):
        desired.route(old, PEERS)


def test_vllm_router_has_a_unit_a_pool_and_must_be_there() -> None:
    node = door(engine="vllm-router")
    with pytest.raises(MetalserveError, match="vllm-router is not on the host") as refused:
        desired.route(node, PEERS)
    assert "pip install vllm-router==0.1.17" in str(refused.value)
    program = "/opt/metalserve/vllm-router/bin/vllm-router"
    there = node.with_observation(replace(node.observed, files={program: a_file(program)}))
    wish = desired.route(there, PEERS)
    text = next(f.content for f in wish.files if f.path.endswith("metalserve-prefix-model-llama.service")) or ""
    assert "--worker-urls http://127.0.0.1:18102 http://127.0.0.1:18103 http://127.0.0.1:18104" in text
    assert ENGINE_KEY not in text and "DynamicUser=yes" in text
    back = after(there, Desired(files=wish.files))
    again = replace(back, settings=door().settings)
    assert "end metalserve-prefix-model-llama.service" in changes(desired.route(again, PEERS), again)


def test_proof() -> None:
    findings = desired.check(settled(door()))
    assert [(f.check, f.status) for f in findings] == [("router-answers", "ok"), ("replicas-ready", "ok")]
    assert desired.in_words(settled(door())) == "llama: 2 of 3 up, gpu-02:8000 drain (L7OK 200)"


@pytest.mark.parametrize(
    ("state", "statuses"),
    [
        ("", ["fail"]),
        ("sh: router-control: not found", ["fail"]),
        (f"generation 1\n{HEAD}\nmodel-a,g:1,0,0,0,DOWN,L7STS,500,,\nmodel-a,g:2,0,0,0,UP,L7OK,200,,", ["ok", "warn"]),
        (
            f"generation 1\n{HEAD}\nmodel-a,g:1,0,0,0,DOWN,L7TOUT,,,\nmodel-b,g:2,0,0,0,UP,L7OK,200,,",
            ["ok", "fail", "ok"],
        ),
        (f"generation 1\n{HEAD}\nmodel-a,g:1,0,0,0,DRAIN,L7OK,200,,", ["ok", "fail"]),
    ],
)
def test_proof_of_what_is_wrong(state: str, statuses: list[str]) -> None:
    node = door()
    seen = node.with_observation(replace(node.observed, sections={desired.STATE_SECTION: Section(state)}))
    assert [finding.status for finding in desired.check(seen)] == statuses


def test_nothing_is_decided_of_hosts_that_serve_nothing_yet() -> None:
    with pytest.raises(MetalserveError) as refused:
        desired.route(door(), (peer("gpu-01", ()),))
    assert not isinstance(refused.value, NotYetKnown)
    assert "bring hosts to serving first" in str(refused.value)
