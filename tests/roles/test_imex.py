"""Role fabric_manager on trays of rack-scale systems: IMEX of the driver's version, its domain, and its readiness."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.hardware.parsers.imex import parse_imex_status
from metalserve.hardware.parsers.text import ParseError
from metalserve.hardware.parsers.unit_deaths import READABLE, parse_unit_deaths
from metalserve.releases import load_release
from metalserve.settings import HostSettings, SettingsError
from roles.fabric_manager import desired as role
from roles.fabric_manager import imex
from tests.roles.helpers import BOOTED, a_file, after, changes, make_node, unit, with_hardware

VERSION = load_release("2026.11-lts").driver.version
TRAYS = ["10.9.0.1", "10.9.0.2"]

# The form is that of nvidia-imex-ctl -N on GB200 (NVIDIA/k8s-dra-driver-gpu, 2025-03), addresses replaced.
STATUS = """\
Connectivity Table Legend:
I - Invalid - Node wasn't reachable, no connection status available
N - Never Connected
R - Recovering - Connection was lost, but clean up has not yet been triggered.
D - Disconnected - Connection was lost, and clean up has been triggreed.
A - Authenticating - If GSSAPI enabled, client has initiated mutual authentication.
C - Connected - Ready for operation

3/25/2025 10:39:43.659
Nodes:
Node #0   - 10.9.0.1   - {first}
Node #1   - 10.9.0.2   - {second}

 Nodes From\\To  0   1
       0        C   C
       1        C   C
Domain State: {domain}
"""


def status(first: str = "READY", second: str = "READY", domain: str = "UP") -> str:
    return STATUS.format(first=first, second=second, domain=domain)


def tray(hardware: NodeHardware) -> NodeHardware:
    gpus = tuple(Gpu(i, fabric_state="Completed", fabric_status="Success") for i in range(4))
    return replace(hardware, needs_imex=True, gpus=gpus, smi_state="ok", driver_version=VERSION)


def node(*, nodes: list[str] = TRAYS, own: str = "10.9.0.1 fe80::1", said: str = "", **more: Any) -> Node:
    sections = {imex.ADDRESS_SECTION: f"{own} \n", imex.STATUS_SECTION: said or status()}
    settings = {"fabric": {"imex_nodes": nodes}}
    return make_node(gpus=("2941",) * 4, settings=settings, sections=sections, hardware=tray, **more)


def failed(of: Node) -> dict[str, str]:
    return {f.check: f.observed for f in role.findings(of) if f.status not in ("ok", "skipped")}


def test_a_tray_gets_imex_of_the_drivers_version_and_its_domain_and_no_fabric_manager() -> None:
    host = node()
    wish = role.install(host) + role.activate(host)
    assert changes(wish, host) == [
        "directory /etc/nvidia-imex: absent -> created",
        f"file {imex.NODES}: absent -> written",
        f"package nvidia-imex: absent -> {VERSION}",
        f"unit {imex.UNIT}: absent -> enable, start",
    ]
    assert wish.files[0].content == "10.9.0.1\n10.9.0.2\n"
    done = with_hardware(after(host, wish), tray)
    assert changes(role.install(done) + role.activate(done), done) == []


def test_a_new_tray_in_the_list_starts_imex_anew() -> None:
    files = {imex.NODES: a_file(imex.NODES, "10.9.0.1\n", mtime=BOOTED + 5)}
    host = node(units={imex.UNIT: unit(imex.UNIT)}, files=files)
    assert f"file {imex.NODES}: content" in changes(role.install(host), host)
    assert changes(role.activate(host), host) == [f"unit {imex.UNIT}: enabled/active -> restart"]


def test_what_is_observed_depends_on_the_domain_being_named() -> None:
    with_domain, without = node().settings, make_node().settings
    assert imex.watch(with_domain, load_release("2026.11-lts")).units == (imex.UNIT,)
    assert imex.watch(without, load_release("2026.11-lts")).commands == {}


def test_a_tray_whose_domain_is_not_named_is_refused() -> None:
    with pytest.raises(MetalserveError, match=r"fabric\.imex_nodes: this host is a tray .* -> give the addresses"):
        role.install(node(nodes=[]))
    with pytest.raises(MetalserveError, match=r"none of this host's addresses \(10\.9\.0\.7\) is in it"):
        role.install(node(own="10.9.0.7"))


@pytest.mark.parametrize("nodes", [["tray-1"], ["10.9.0.1", "10.9.0.1"], ["10.9.0.1/24"], [""]])
def test_settings_take_addresses_once_each(nodes: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"fabric\.imex_nodes"):
        HostSettings.from_data({"release": "2026.11-lts", "fabric": {"imex_nodes": nodes}}, host="a", source="x")


def test_a_ready_domain_is_proved() -> None:
    assert failed(node(units={imex.UNIT: unit(imex.UNIT)})) == {}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (status(first="WAITING_FOR_PEERS", domain="DOWN"), {"imex-ready", "imex-domain"}),
        (status(second="UNAVAILABLE", domain="DEGRADED"), {"imex-domain"}),
        ("Error: failed to connect to the IMEX service", {"imex-ready"}),
        (status().replace("10.9.0.1 ", "10.9.0.9 "), {"imex-ready", "imex-domain"}),
    ],
)
def test_what_is_not_ready_is_told(said: str, expected: set[str]) -> None:
    found = {f.check: f for f in role.findings(node(units={imex.UNIT: unit(imex.UNIT)}, said=said))}
    bad = {check for check, f in found.items() if f.status != "ok"}
    assert bad == expected
    assert "imex-domain" not in found or found["imex-domain"].status in ("ok", "warn"), (
        "the other trays may be on their way"
    )
    assert found["imex-ready"].status in ("ok", "fail", "unknown")


def test_a_dead_service_fails_the_tray() -> None:
    assert "imex-alive" in failed(node(units={imex.UNIT: unit(imex.UNIT, active="failed")}))


def test_status_is_read() -> None:
    found = parse_imex_status(status(second="WAITING_FOR_RECOVERY", domain="DEGRADED"))
    assert (found.domain, dict(found.nodes)) == (
        "DEGRADED",
        {"10.9.0.1": "READY", "10.9.0.2": "WAITING_FOR_RECOVERY"},
    )


@given(st.text(max_size=400))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_imex_status, parse_unit_deaths):
        for given_text in (text, READABLE + "\n" + text):
            try:
                parse(given_text)  # type: ignore[operator]
            except ParseError:
                continue
