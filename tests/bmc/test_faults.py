"""Every fault of the lab's BMC, as the client sees and names it."""

from __future__ import annotations

import time

import pytest

from metalserve.bmc import connector, redfish_power
from metalserve.bmc.errors import BmcError
from metalserve.bmc.redfish import RedfishBmc
from metalserve.errors import MetalserveError
from metalserve.lab.bmc import faults
from tests.bmc.conftest import Fake


@pytest.fixture
def on(fake: Fake) -> RedfishBmc:
    fake.machine.up = True
    return fake.client()


def test_once_that_was_stored_as_continuous_is_told_and_set_back(fake: Fake, on: RedfishBmc) -> None:
    fake.fault("once-ignored")
    seen = on.boot_once("pxe")
    assert not seen.once
    assert seen.words.startswith("stored as Continuous, not Once: set it back")
    assert on.boot_back().enabled == "Disabled"


def test_an_override_that_was_not_stored_is_an_error(fake: Fake, on: RedfishBmc) -> None:
    fake.fault("boot-ignored")
    with pytest.raises(BmcError, match="accepted Pxe for the next boot, but shows None"):
        on.boot_once("pxe")
    assert fake.board.state()["boot"]["Target"] == "None"


def test_boot_back_sets_the_disk_where_disabled_is_not_taken(fake: Fake, on: RedfishBmc) -> None:
    on.boot_once("pxe")
    before = fake.board.remember

    def stubborn(**parts: object) -> None:
        boot = parts.get("boot")
        if isinstance(boot, dict) and boot["Enabled"] == "Disabled":
            return
        before(**parts)

    fake.board.remember = stubborn  # type: ignore[method-assign]
    seen = on.boot_back()
    assert (seen.target, seen.enabled) == ("Hdd", "Continuous")
    assert "Disabled is not taken" in seen.words


def test_a_power_action_that_is_accepted_and_not_done_is_asked_again_once_and_then_an_error(
    fake: Fake, on: RedfishBmc
) -> None:
    fake.fault("power-ignored")
    with pytest.raises(BmcError, match=r"ForceOff accepted, again ForceOff accepted, but it is not off after"):
        on.set_power("force-off", 2)
    assert len(fake.asked("POST", "ComputerSystem.Reset")) == 2
    assert fake.machine.done == []


def test_off_uses_force_when_the_host_does_not_shut_down(
    fake: Fake, on: RedfishBmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redfish_power, "GRACE_S", 1.0)
    fake.fault("graceful-ignored")
    seen = on.set_power("off", 20)
    assert seen.power == "off"
    assert "GracefulShutdown accepted, but it is not off" in seen.words
    assert "ForceOff accepted: off" in seen.words
    fake.machine.up = True
    with pytest.raises(BmcError, match="not off after"):
        on.set_power("graceful-off", 1)
    assert fake.machine.up


def test_a_host_that_shuts_down_slowly_is_waited_for(fake: Fake, on: RedfishBmc) -> None:
    fake.machine.stopping_s = 1.0
    assert on.set_power("off", 30).power == "off"
    assert fake.machine.done == ["press"]


def test_an_answer_that_was_lost_is_no_failure_and_the_action_is_not_repeated(fake: Fake, on: RedfishBmc) -> None:
    fake.fault("answer-lost")
    seen = on.set_power("force-off", 20)
    assert seen.power == "off"
    assert "the answer was lost" in seen.words
    assert len(fake.asked("POST", "ComputerSystem.Reset")) == 1


def test_a_reset_is_not_sent_twice_by_one_call(fake: Fake, on: RedfishBmc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "READ_S", 0.6)
    on.power()
    fake.fault("hang")
    with pytest.raises(BmcError), on.asking(4.0):
        system = on._root.get_system(on.found().path)  # type: ignore[union-attr]
        system.reset_system("ForceOff")
    fake.heal()
    time.sleep(0.3)
    assert len(fake.asked("POST", "ComputerSystem.Reset")) <= 1


def test_503_of_everything_while_off_is_waited_for_and_then_named(fake: Fake, on: RedfishBmc) -> None:
    assert on.power() == "on"
    fake.fault("unavailable-when-off")
    fake.machine.up = False
    with pytest.raises(BmcError, match="HTTP 503") as caught, on.connector.within(2.0):
        on.power()
    assert caught.value.status == 503
    fake.heal()
    assert on.power() == "off"


def test_a_bmc_that_does_not_answer_ends_with_the_deadline(
    fake: Fake, on: RedfishBmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connector, "READ_S", 0.5)
    fake.fault("hang")
    begun = time.monotonic()
    with pytest.raises(BmcError, match=r"no answer in time|no time is left"), on.connector.within(2.0):
        on.power()
    assert time.monotonic() - begun < 6


def test_slow_answers_are_waited_for(fake: Fake, on: RedfishBmc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "SLOW_S", 0.2)
    fake.fault("slow")
    assert on.power() == "on"


def test_a_body_that_drips_ends_with_the_deadline(fake: Fake, on: RedfishBmc, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalserve.lab.bmc import server

    on.power()

    def drip(self: server._Handler, path: str, body: dict[str, object]) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(50):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.1)

    monkeypatch.setattr(server._Handler, "_get", drip)
    begun = time.monotonic()
    with pytest.raises(BmcError), on.connector.within(1.0):
        on.power()
    assert time.monotonic() - begun < 4


def test_no_room_for_a_session_means_basic_authentication(fake: Fake, on: RedfishBmc) -> None:
    fake.fault("sessions-full")
    assert on.power() == "on"
    assert on.login.fell_back == "no session (HTTP 503), basic authentication"
    assert len(fake.asked("POST", "Sessions")) == 1


def test_a_session_that_the_bmc_forgot_is_opened_anew(fake: Fake, on: RedfishBmc) -> None:
    assert on.power() == "on"
    fake.server.tokens.clear()
    assert on.power() == "on"
    assert len(fake.server.tokens) == 1


def test_credentials_that_are_changed_meanwhile(fake: Fake, on: RedfishBmc) -> None:
    assert on.power() == "on"
    fake.fault("wrong-credentials")
    with pytest.raises(BmcError, match="refuses the login") as caught:
        on.power()
    assert caught.value.status == 401
    assert len(fake.asked("POST", "Sessions")) == 2


def test_nothing_is_changed_on_a_system_that_is_not_named(fake: Fake) -> None:
    fake.machine.up = True
    client = fake.client(serial=None)
    assert client.power() == "on"  # reading is free: there is one host
    assert not client.identity().proven
    for change in (
        lambda: client.set_power("off", 5),
        lambda: client.boot_once("pxe"),
        client.boot_back,
        lambda: client.insert("http://192.0.2.1/x.iso"),
        client.eject,
    ):
        with pytest.raises(BmcError, match="nothing is changed on a system that was not named"):
            change()
    assert [each for each in fake.asked() if each[0] not in ("GET", "DELETE")] == [
        ("POST", "/redfish/v1/SessionService/Sessions")
    ]


def test_the_bmc_of_another_host_is_refused(fake: Fake) -> None:
    with pytest.raises(BmcError, match="no system with serial OTHER") as caught:
        fake.client(serial="OTHER").set_power("cycle", 10)
    assert "System_0: serial MSL" in str(caught.value)
    assert fake.asked("POST", "Reset") == []


def test_every_fault_has_a_test_here_or_among_the_boots(request: pytest.FixtureRequest) -> None:
    from pathlib import Path

    text = "".join(each.read_text() for each in Path(__file__).parent.glob("test_*.py"))
    assert [kind for kind in faults.KINDS if f'fault("{kind}"' not in text] == []


def test_an_unknown_fault_is_refused(fake: Fake) -> None:
    with pytest.raises(MetalserveError, match="did you mean 'sessions-full'"):
        faults.inject(fake.directory, "session-full")
