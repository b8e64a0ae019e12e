"""From looks to the fleet's limits: who wants something, what serves, what a plan says of the first step."""

from __future__ import annotations

from dataclasses import replace

from metalserve.catalogue.causes import load_causes
from metalserve.recovery.ports import Looked
from metalserve.recovery.survey import factors_of, group_of, members_of, pools_of, preview, sighting, unhealthy
from metalserve.recovery.values import Subject
from metalserve.recovery.verdict import Found, Verdict
from metalserve.settings import HostSettings

XID = "NVRM: Xid (PCI:0000:4e:00): 79, pid=1, name=x, GPU has fallen off the bus."


def settings(**more: object) -> HostSettings:
    model = {"name": "org/model", "manifest": "files/m.yaml", "revision": "0" * 40}
    return HostSettings.from_data({"release": "2026.11-lts", "model": model, **more}, host="a", source="test")


def verdict(cause_id: str, line: str = "") -> Verdict:
    cause = load_causes().cause(cause_id)
    found = Found(
        cause.id, cause.title, ("0000:4e:00.0",), cause.rung, cause.confidence, cause.person, cause.then, (line,), 1,
        ("kernel log",), (cause.source,),
    )  # fmt: skip
    return Verdict((found,), cause.rung, cause.person)


WELL = Looked(True, True, Verdict((), "nothing", False), True, "b1")
LOST = Looked(True, True, verdict("gpu-off-bus", XID), True, "b1", "/e.tar.gz", (Subject("gpu", "0000:4e:00.0", "42"),))
MUTE = Looked(True, True, Verdict((), "nothing", False), False, "b1")
DEAD = Looked(False, None, None, None)
ASKED_IN_VAIN = Looked(True, True, Verdict((), "nothing", False), None, "b1")


def test_who_wants_recovery() -> None:
    assert [unhealthy(look) for look in (WELL, LOST, MUTE, DEAD, ASKED_IN_VAIN)] == [False, True, True, True, False]


def test_members_know_what_was_seen_before() -> None:
    looks = {"a": WELL, "b": LOST, "c": MUTE, "d": DEAD}
    known = dict.fromkeys(looks, settings(recovery={"unreachable_s": 120}))
    groups = {"all": looks, "gpus": ["a", "b"], "more": ["b", "c"]}
    members = {
        m.name: m
        for m in members_of(looks, known, groups, named={"c"}, fleet=True, since={"b": 50.0}, now=100.0, out={"a", "b"})
    }
    assert {name: m.unhealthy_since for name, m in members.items()} == {"a": None, "b": 50.0, "c": 100.0, "d": 100.0}
    assert {name: m.group for name, m in members.items()} == {"a": "gpus", "b": "gpus", "c": "more", "d": "all"}
    assert (members["c"].asked, members["b"].asked) == ("named", "fleet")
    assert (members["b"].rung, members["c"].rung, members["d"].rung) == ("reboot", "restart-engine", "")
    assert (members["d"].evidence, members["d"].unreachable_s) == (False, 120.0)
    assert (members["a"].out, members["b"].out) == (True, False), "a host that is ill is not put back"
    assert group_of("z", groups) == "all"


def test_pools_count_what_gave_a_token_and_nothing_else() -> None:
    known = {"a": settings(engine={"replicas": 2}), "b": settings(engine={"replicas": 2})}
    pools = pools_of({"a": {"engine 0": "token", "engine 1": "silent"}}, known)
    assert [(pool.wanted, pool.serving) for pool in pools] == [(2, 1), (2, 0)]
    group = {"group": {"hosts": {"a": "10.0.0.1", "b": "10.0.0.2"}}}
    both = {"a": settings(engine=group), "b": settings(engine=group)}
    (pool,) = pools_of({"a": {"engine 0": "token"}, "b": {"engine 0": "member"}}, both)
    assert (pool.hosts, pool.wanted, pool.serving) == (("a", "b"), 1, 1)


def test_a_sighting_names_xid_release_and_rack() -> None:
    own = settings(recovery={"rack": "r7"})
    seen = sighting("a", LOST, factors_of(own), 5.0)
    assert seen.causes == ("gpu-off-bus",)
    assert seen.factors == {"release": "2026.11-lts", "rack": "r7", "model": "org/model", "xid": "79"}


def test_a_preview_says_what_reboots_and_leaves_out_what_cannot_be() -> None:
    told = preview("a", LOST, settings(), (), lambda host, rung: "", 100.0).as_dict()
    assert (told["step"], told["reboots"], told["wipes"]) == ("reboot", True, False)
    assert told["subjects"] == ["gpu 0000:4e:00.0 42"] and "requests in flight" in str(told["destroys"])
    still = preview("a", LOST, settings(), (), lambda host, rung: "no way" if rung == "reboot" else "", 100.0)
    assert still.what == "quarantine", "a host that serves is not switched off for what a reboot was asked for"
    silent = replace(LOST, serving=False)
    without = preview("a", silent, settings(), (), lambda host, rung: "no way" if rung == "reboot" else "", 100.0)
    assert without.what == "power-cycle" and "reboot: no way" in without.move.reason
    assert preview("a", WELL, settings(), (), lambda host, rung: "", 100.0).what == "well"
