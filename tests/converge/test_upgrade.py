"""An upgrade over a fleet in words: pure, from reports."""

from __future__ import annotations

from click.testing import CliRunner

from metalserve.cli.upgrade import command
from metalserve.converge.upgrade import alike, plans, whereabouts
from metalserve.pyinfra_seam.report import Failure, HostReport, RunReport


def report(*hosts: HostReport) -> RunReport:
    made = RunReport()
    made.complete = True
    for host in hosts:
        made.hosts[host.name] = host
    return made


def planned(name: str, way: str = "a -> b") -> HostReport:
    steps = [("upgrade", "release", way), ("upgrade", "drain", "2 engine(s)"), ("upgrade", "reload", "1 -> 2")]
    return HostReport(name, planned=steps)


def test_the_plan_of_each_host_is_read_from_a_dry_run() -> None:
    refused = HostReport("c", failure=Failure("upgrade", "decide", "in use by process 7", remedy="end it"))
    done = HostReport("d", proofs={"release": "b"})
    found = plans(report(planned("a"), refused, done), ["a", "c", "d", "e"])
    assert [(p.host, p.on, bool(p.steps), p.obstacle) for p in found] == [
        ("a", "a", True, ""),
        ("c", "", False, "in use by process 7 -> end it"),
        ("d", "b", False, ""),
        ("e", "", False, "it was not looked at"),
    ]
    assert found[0].steps == (("drain", "2 engine(s)"), ("reload", "1 -> 2"))


def test_an_unfinished_upgrade_and_one_without_a_new_driver_are_something_to_do() -> None:
    resume = HostReport("a", planned=[("upgrade", "resume", "unfinished: a -> b, at step install; goes on to b")])
    image = HostReport("b", planned=[("upgrade", "release", "a -> b")])
    assert all(p.steps for p in plans(report(resume, image), ["a", "b"]))


def test_the_same_plan_on_many_hosts_is_told_once() -> None:
    found = alike(plans(report(planned("a"), planned("b", "x -> b"), planned("c")), ["a", "b", "c"]))
    assert [names for names, _ in found] == [["a", "c"], ["b"]]


def test_after_a_stopped_run_each_host_is_told_with_its_release() -> None:
    before = plans(report(planned("a"), planned("b"), planned("c"), planned("d")), list("abcd"))
    after = report(
        HostReport("a", proofs={"release": "b"}),
        HostReport("b", proofs={"release": "a"}, failure=Failure("upgrade", "walk", "rolled back to a")),
        HostReport("c", failure=Failure("upgrade", "walk", "the connection broke")),
        HostReport("d"),
    )
    after.settled["d"] = "not reached"
    assert whereabouts(after, before) == {
        "b": ["a"],
        "a": ["b"],
        "not known (look at its failure above)": ["c"],
        "a (not reached)": ["d"],
    }


def test_a_release_that_does_not_exist_is_refused_before_any_host_is_contacted() -> None:
    result = CliRunner().invoke(command, ["inventories/prod.py", "--to", "2026.11-ltz"], standalone_mode=False)
    assert result.return_value == 2
    assert "did you mean '2026.11-lts'" in result.output and "no host was contacted" in result.output
