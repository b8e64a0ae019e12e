"""Sharing a model among hosts by the real engine, each host a process on a loopback address of its own."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from metalserve.weights.agent.config import SwarmConfig
from metalserve.weights.agent.engine import settings_of
from tests.weights.source import Source, serving
from tests.weights.swarm_fleet import MODEL, PIECE, SECRET, TOTAL, SwarmHosts, finished, sent, sockets_of, until


def test_hosts_share_one_leaves_and_comes_back_another_joins_late(tmp_path: Path) -> None:
    with serving(Source(dict(MODEL))) as source:
        fleet = SwarmHosts(tmp_path, source.url, 3, rate_bytes_s=400_000)
        first, second = fleet.start(0), fleet.start(1)
        until(lambda: fleet.done(1) > TOTAL // 4 and sent(fleet.hosts[1])["peers"])
        assert {address for _, address in sockets_of(first.pid)} <= {"127.0.0.2", "127.0.0.1"}, "its own, the source's"
        second.send_signal(signal.SIGKILL)
        second.communicate()
        third = fleet.start(2)
        again = fleet.start(1)
        for process in (first, third, again):
            finished(process)
        assert all(host.right() for host in fleet.hosts)
        assert sent(fleet.hosts[0])["peers"] and sent(fleet.hosts[2])["peers"]
        assert sum(sent(host)["source"] for host in fleet.hosts) < 2 * TOTAL, "three copies would be 3 x"


@pytest.mark.slow
def test_one_that_comes_later_takes_it_from_those_that_have_it(tmp_path: Path) -> None:
    with serving(Source(dict(MODEL))) as source:
        fleet = SwarmHosts(tmp_path, source.url, 2, swarm={"peers": ()})
        finished(fleet.start(0))
        fleet = SwarmHosts(tmp_path, source.url, 2, rate_bytes_s=200_000)
        giving = fleet.start(0, "seed")
        try:
            finished(fleet.start(1))
        finally:
            giving.terminate()
            giving.communicate()
        assert fleet.hosts[1].right()
        assert sent(fleet.hosts[1])["peers"] > TOTAL * 0.8, sent(fleet.hosts[1])
        assert giving.returncode == 0


def test_a_peer_that_lies_is_refused(tmp_path: Path) -> None:
    with serving(Source(dict(MODEL), slow_s=0.02)) as source:
        fleet = SwarmHosts(tmp_path, source.url, 2, rate_bytes_s=400_000)
        session, handle = fleet.stranger(fleet.addresses[1], fleet.keys(SECRET, 1))
        session.apply_settings({"disable_hash_checks": True})
        liar = Path(handle.status().save_path) / "model"
        for name, body in MODEL.items():
            (liar / name).parent.mkdir(parents=True, exist_ok=True)
            (liar / name).write_bytes(bytes(byte ^ 1 for byte in body[:1000]) + body[1000:])
        handle.force_recheck()
        until(lambda: handle.status().is_seeding)
        finished(fleet.start(0))
        assert handle.status().total_payload_upload > 0, "it did give something"
        assert fleet.hosts[0].right()


def test_where_nothing_comes_the_rest_is_fetched_directly(tmp_path: Path) -> None:
    big = "sub dir/part 1.safetensors"
    with serving(Source(dict(MODEL), stall=dict.fromkeys(MODEL, 1))) as source:
        fleet = SwarmHosts(tmp_path, source.url, 3, swarm={"stall_s": 2})
        out = finished(fleet.start(0))  # the two others never come
        assert "nothing from anybody for 2 s" in out and "fetched directly" in out
        assert fleet.hosts[0].right()
        assert (big, 0) in source.requests and any(at > 0 for path, at in source.requests if path == big)


@pytest.mark.slow
def test_dead_peers_cost_nothing(tmp_path: Path) -> None:
    with serving(Source(dict(MODEL))) as source:
        fleet = SwarmHosts(tmp_path, source.url, 6)
        out = finished(fleet.start(0))
        assert fleet.hosts[0].right() and "fetched directly" not in out
        assert sent(fleet.hosts[0]) == {"peers": 0, "source": TOTAL}


def test_without_the_engine_or_the_torrent_all_is_fetched_directly(tmp_path: Path) -> None:
    with serving(Source(dict(MODEL))) as source:
        fleet = SwarmHosts(tmp_path, source.url, 2)
        host = fleet.hosts[0]
        out = finished(host.start("stage", host.config))
        assert "libtorrent is missing" in out and host.right()
        fleet.torrent.write_text("bm9uZQ==")
        assert "is not bencoded" in finished(fleet.start(1)) and fleet.hosts[1].right()


@pytest.mark.slow
def test_limits_hold(tmp_path: Path) -> None:
    limit = 1_000_000
    with serving(Source(dict(MODEL))) as source:
        fleet = SwarmHosts(tmp_path, source.url, 2, swarm={"peers": ()})
        finished(fleet.start(0))
    with serving(Source({}), 0) as nothing:
        fleet = SwarmHosts(tmp_path, nothing.url, 2, swarm={"upload_bytes_s": limit})
        giving = fleet.start(0, "seed")
        begun = time.monotonic()
        try:
            finished(fleet.start(1))
        finally:
            giving.terminate()
            giving.communicate()
        seconds = time.monotonic() - begun
        assert fleet.hosts[1].right() and sent(fleet.hosts[1])["peers"] >= TOTAL
        assert seconds > TOTAL / limit * 0.7, seconds


def test_strangers_get_nothing(tmp_path: Path) -> None:
    with serving(Source(dict(MODEL))) as source:
        fleet = SwarmHosts(tmp_path, source.url, 2, swarm={"peers": ()})
        finished(fleet.start(0))
        fleet = SwarmHosts(tmp_path, source.url, 2)
        giving = fleet.start(0, "seed")
        own, place = fleet.addresses[0], fleet.addresses[1]
        other_keys, right_keys = fleet.keys("0f" * 16, 1), fleet.keys(SECRET, 1)
        sessions = {
            "another fleet's certificate": fleet.stranger(place, other_keys),
            "an address that is none of the fleet's": fleet.stranger("127.0.0.9", right_keys),
        }
        try:
            until(lambda: ("tcp", own) in sockets_of(giving.pid))
            for _ in range(4):
                for _, handle in sessions.values():
                    handle.connect_peer((own, fleet.port), 0, 0)
                time.sleep(0.5)
            got = {why: handle.status().total_payload_download for why, (_, handle) in sessions.items()}
            assert got == dict.fromkeys(sessions, 0)
            sessions.clear()
            kept, handle = fleet.stranger(place, right_keys)  # the proof that they were dialled rightly
            handle.connect_peer((own, fleet.port), 0, 0)
            until(lambda: handle.status().is_seeding)
            assert kept.is_listening()
        finally:
            giving.terminate()
            giving.communicate()


def test_the_engine_speaks_to_nobody_else() -> None:
    settings = settings_of(SwarmConfig("", "10.0.0.1:6881", ("10.0.0.2:6881",), "/keys"))
    off = ("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp", "enable_incoming_utp", "enable_outgoing_utp")
    assert not any(settings[name] for name in off)
    assert (settings["listen_interfaces"], settings["outgoing_interfaces"]) == ("10.0.0.1:6881s", "10.0.0.1")
    bare = settings_of(SwarmConfig("", "[fd00::1]:6881"))
    assert (bare["listen_interfaces"], bare["outgoing_interfaces"]) == ("[fd00::1]:6881", "fd00::1")
    assert bare["in_enc_policy"] == bare["out_enc_policy"] == 0, "forced, where there is no TLS"
    assert PIECE >= 16 << 10
