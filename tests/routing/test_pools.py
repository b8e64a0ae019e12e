"""Which replicas a router has: from the inventory's hosts, what was seen of them, and what it had before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.errors import MetalserveError
from metalserve.routing.pools import Pool, Replica, pools, record, recorded, shared_key
from tests.routing.fleets import found, peer, router


def targets(*chosen: Pool) -> list[str]:
    return [f"{replica.name}={replica.target}" for pool in chosen for replica in pool.replicas]


def test_each_engine_that_a_host_has_a_unit_for_is_a_replica() -> None:
    chosen = found(router(), peer("gpu-02", (1, 0), port=9000), peer("gpu-01", (0,)), peer("door-99", (), model=None))
    assert targets(*chosen) == [
        "gpu-01:8000=192.0.2.1:8000",
        "gpu-02:9000=192.0.2.2:9000",
        "gpu-02:9001=192.0.2.2:9001",
    ]


def test_of_hosts_that_run_one_engine_together_only_the_head_is_a_replica() -> None:
    group = {"hosts": {"gpu-01": "10.0.0.1", "gpu-02": "10.0.0.2"}}
    chosen = found(router(), peer("gpu-01", (0,), group=group), peer("gpu-02", (0,), group=group))
    assert targets(*chosen) == ["gpu-01:8000=192.0.2.1:8000"]


def test_a_host_that_lost_an_engine_loses_that_replica_alone() -> None:
    assert targets(*found(router(), peer("gpu-01", (0, 2)))) == [
        "gpu-01:8000=192.0.2.1:8000",
        "gpu-01:8002=192.0.2.1:8002",
    ]


def test_a_host_that_is_not_seen_keeps_what_it_had() -> None:
    hosts = (peer("gpu-01", None), peer("gpu-02", (0,)))
    chosen = pools(router(), hosts, own="door-99", before={"gpu-01": [8000, 8003]})
    assert [r.name for r in chosen[0].replicas] == ["gpu-01:8000", "gpu-01:8003", "gpu-02:8000"]
    assert recorded(record(chosen)) == {"gpu-01": [8000, 8003], "gpu-02": [8000]}


def test_a_host_of_which_nothing_is_known_stops_the_run_rather_than_being_left_out() -> None:
    with pytest.raises(MetalserveError, match="how many engines gpu-01 has is not known"):
        found(router(), peer("gpu-01", None), peer("gpu-02", (0,)))
    assert targets(*found(router(), peer("gpu-01", None, replicas=1))) == ["gpu-01:8000=192.0.2.1:8000"]


@pytest.mark.parametrize(
    ("listens", "own", "address"),
    [
        ("0.0.0.0", "door-99", "192.0.2.1"),
        ("::", "door-99", "192.0.2.1"),
        ("10.0.0.7", "door-99", "10.0.0.7"),
        ("0.0.0.0", "gpu-01", "127.0.0.1"),
        ("::", "gpu-01", "[::1]"),
        ("127.0.0.1", "gpu-01", "127.0.0.1"),
    ],
)
def test_a_replica_is_reached_where_its_engine_listens(listens: str, own: str, address: str) -> None:
    assert targets(*found(router(), peer("gpu-01", (0,), host=listens), own=own)) == [f"gpu-01:8000={address}:8000"]


def test_an_engine_on_the_loopback_of_another_host_is_refused() -> None:
    with pytest.raises(MetalserveError, match=r"gpu-01: engine\.host is 127\.0\.0\.1, which this router cannot reach"):
        found(router(), peer("gpu-01", (0,), host="127.0.0.1"))


def test_models_have_pools_of_their_own_with_names_that_haproxy_takes() -> None:
    chosen = found(
        router(), peer("gpu-01"), peer("gpu-02", model="org/Llama-3.3"), peer("gpu-03", model="org-Llama-3.3")
    )
    names = [pool.name for pool in chosen]
    assert [pool.model for pool in chosen] == ["llama", "org-Llama-3.3", "org/Llama-3.3"]
    assert names[:2] == ["model-llama", "model-org-Llama-3.3"] and names[2].startswith("model-org-Llama-3.3-")


names = st.builds("".join, st.lists(st.sampled_from(["a", "B", "0", "/", ":", "-", "_", "."]), min_size=1, max_size=4))


@given(st.lists(names.filter(lambda name: name[0].isalnum()), min_size=2, max_size=6, unique=True))
def test_two_models_never_share_a_pool(models: list[str]) -> None:
    assert len({Pool(model, ()).name for model in models}) == len(models)


def test_router_hosts_choose_and_must_serve() -> None:
    hosts = (peer("gpu-01"), peer("gpu-02"), peer("cpu-03", (), model=None))
    assert {r.host for r in found(router(hosts=["gpu-02"]), *hosts)[0].replicas} == {"gpu-02"}
    with pytest.raises(MetalserveError, match="the inventory has no host gpu-09"):
        found(router(hosts=["gpu-09"]), *hosts)
    with pytest.raises(MetalserveError, match="cpu-03 serves no model itself"):
        found(router(hosts=["cpu-03"]), *hosts)


def test_further_backends_join_the_pool_of_their_model_and_are_not_recorded() -> None:
    given_ = router(backends=[{"name": "cloud", "address": "198.51.100.4", "port": 443, "model": "llama"}])
    chosen = found(given_, peer("gpu-01", (0,)))
    assert [r.name for r in chosen[0].replicas] == ["cloud:443", "gpu-01:8000"]
    assert recorded(record(chosen)) == {"gpu-01": [8000]}
    twice = router(backends=[{"name": "again", "address": "192.0.2.1", "port": 8000, "model": "llama"}])
    with pytest.raises(MetalserveError, match="are the same replica"):
        found(twice, peer("gpu-01", (0,)))


def test_without_a_replica_there_is_no_router() -> None:
    with pytest.raises(MetalserveError, match="there is no replica to route to"):
        found(router(), peer("gpu-01", ()))


def test_names_of_adapters_lead_to_a_served_model() -> None:
    assert found(router(names={"legal": "llama"}), peer("gpu-01"))[0].also == ("legal",)
    with pytest.raises(MetalserveError, match="gpt is not served here"):
        found(router(names={"legal": "gpt"}), peer("gpu-01"))
    with pytest.raises(MetalserveError, match="llama is a served model itself"):
        found(router(names={"llama": "llama"}), peer("gpu-01"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"hosts": 3}', '{"hosts": {"a": ["x"]}}', '{"hosts": {"a": [true]}}'])
def test_a_record_that_is_none_is_as_good_as_empty(text: str) -> None:
    assert recorded(text) == {}


def test_one_model_has_one_key() -> None:
    pool = Pool("m", (Replica("a", "192.0.2.1", 1), Replica("b", "192.0.2.2", 1)))
    assert shared_key(pool, {"a": "k", "b": "k"}) == "k"
    assert shared_key(pool, {"a": None, "b": None}) is None
    for keys in ({"a": "k", "b": "other-secret"}, {"a": "k", "b": None}, {"a": "k"}):
        with pytest.raises(MetalserveError, match="do not ask for the same key: a, b") as refused:
            shared_key(pool, keys)
        assert "secret" not in str(refused.value)
