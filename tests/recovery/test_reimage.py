"""What may be done with a host whose system is to be written anew: the order decides."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from metalserve.recovery.known_hosts import entry_name, replaced
from metalserve.recovery.reimage import Wanted, begun_at, decide
from metalserve.recovery.values import Attempt, Outcome, Step, StepRecord
from metalserve.templates.machine_identity import Identity
from metalserve.templates.order import Order, State, Target

BEGUN = datetime(2026, 11, 26, 10, 0, tzinfo=UTC)
NOW = BEGUN + timedelta(minutes=20)
WANTED = Wanted(Identity(serial="S1"), "debian-13", "D1")


def order(state: State, minutes: float = 1, **more: Any) -> Order:
    """An order placed so many minutes after the recovery began."""
    at = BEGUN + timedelta(minutes=minutes)
    known: dict[str, Any] = {
        "number": "n1", "node": "gpu-1", "identity": Identity(serial="S1"), "template": "debian-13", "build": "b1",
        "disk": Target(serial="D1"), "token": "t", "state": state, "ordered_at": at,
        "expires_at": at + timedelta(hours=1),
    }  # fmt: skip
    return Order.model_validate({**known, **more})


def decided(found: Order | None, now: datetime = NOW) -> str:
    return decide(found, WANTED, BEGUN.timestamp(), now).move


@pytest.mark.parametrize(
    ("found", "move"),
    [
        (None, "place"),
        (order("ordered"), "go-on"),
        (order("ordered", -30), "go-on"),
        (order("permitted"), "wait"),
        (order("done"), "installed"),
        (order("failed"), "place"),
        (order("done", -1), "place"),
        (order("permitted", -1), "refuse"),
    ],
)
def test_an_order_is_carried_out_once(found: Order | None, move: str) -> None:
    assert decided(found) == move


def test_an_order_that_has_expired_is_replaced() -> None:
    assert decided(order("ordered"), NOW + timedelta(hours=2)) == "place"


@pytest.mark.parametrize("state", ["ordered", "permitted"])
@pytest.mark.parametrize(
    "other", [{"template": "rocky-9"}, {"disk": Target(serial="D2")}, {"identity": Identity(serial="S2")}]
)
def test_an_open_order_for_something_else_is_left_alone(state: State, other: dict[str, Any]) -> None:
    assert decided(order(state, **other)) == "refuse"


def test_a_done_order_for_another_disk_is_not_taken_for_this_one() -> None:
    assert decided(order("done", disk=Target(serial="D2"))) == "place"


def test_an_order_of_the_second_in_which_the_step_began_is_its_own() -> None:
    assert decide(order("done", 0), WANTED, BEGUN.timestamp() + 0.9, NOW).move == "installed"


def record(number: int, rung: str, outcome: Outcome | None, begun: float) -> StepRecord:
    ended = None if outcome is None else begun + 1
    return StepRecord(number, 1, Step(rung, (), "", 10.0), begun, ended, outcome)


def attempt(*steps: StepRecord, ended: float | None = None, host: str = "gpu-1") -> Attempt:
    return Attempt(1, host, "g", "me", (), (), "reboot", "", 0.0, ended, None, "", steps)


def test_orders_are_ones_own_since_the_first_installation_whose_end_is_not_known() -> None:
    open_one = attempt(
        record(1, "reboot", "unknown", 10), record(2, "reimage", "failed", 20), record(3, "reimage", "unknown", 30),
        record(4, "reimage", None, 40),
    )  # fmt: skip
    assert begun_at("gpu-1", [open_one], 99.0) == 30
    assert begun_at("gpu-2", [open_one], 99.0) == 99.0
    assert begun_at("gpu-1", [attempt(record(1, "reimage", None, 5), ended=6.0)], 99.0) == 99.0
    assert begun_at("gpu-1", [], 99.0) == 99.0


KEY, NEW = "ssh-ed25519 OLD", "ssh-ed25519 NEW"


def hashed(name: str) -> str:
    salt = b"12345678901234567890"
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        (f"10.0.0.1 {KEY}\n", ""),
        (f"gpu-1,10.0.0.1 {KEY}\n", f"gpu-1 {KEY}\n"),
        (f"10.0.0.11 {KEY}\n[10.0.0.1]:2222 {KEY}\n", f"10.0.0.11 {KEY}\n[10.0.0.1]:2222 {KEY}\n"),
        (f"{hashed('10.0.0.1')} {KEY}\n{hashed('10.0.0.2')} {KEY}\n", f"{hashed('10.0.0.2')} {KEY}\n"),
        (f"@revoked 10.0.0.1 {KEY}\n# 10.0.0.1 {KEY}\n\n10.0.0.* {KEY}", None),
        ("|1|nonsense ssh-ed25519 X\n", "|1|nonsense ssh-ed25519 X\n"),
    ],
)
def test_only_the_lines_of_the_host_are_replaced(before: str, after: str | None) -> None:
    kept = f"{before}\n" if after is None else after
    assert replaced(before, "10.0.0.1", [NEW]) == f"{kept}10.0.0.1 {NEW}\n"


def test_a_port_of_its_own_is_a_name_of_its_own() -> None:
    assert (entry_name("h", 22), entry_name("h", 2222)) == ("h", "[h]:2222")
