"""`metalserve template order` and `serve` from the command line; the boot tree's text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metalserve.cli import main, template_test
from metalserve.errors import MetalserveError
from metalserve.templates.boot_tree import Site, dnsmasq
from metalserve.templates.orders import Orders
from metalserve.templates.proving import Advance, Proof, Roles
from metalserve.templates.qemu_ssh import Shell
from metalserve.templates.shelf import Build
from metalserve.templates.spec import TemplateSpec
from metalserve.verify.finding import Finding
from tests.templates.boot_servers import BootYard


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BootYard:
    monkeypatch.setenv("METALSERVE_TEMPLATES_DIR", str(tmp_path))
    return BootYard(tmp_path)


def place(*more: str) -> list[str]:
    return ["template", "order", "place", "gpu-01", "debian-13", "latest", "--disk", "D2", *more]


def test_an_order_says_what_is_lost_and_wants_a_yes(yard: BootYard, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(place("--serial", "S1")) == 3
    words = f"gpu-01 (serial S1): disk D2 is wiped and written with debian-13 {yard.manifest.build} -> say --yes"
    assert capsys.readouterr().err.strip() == words
    assert Orders(yard.path / "orders").all() == []
    assert main(place("--serial", "S1", "--yes")) == 0
    order = Orders(yard.path / "orders").all()[0]
    assert (order.build, order.disk.serial, order.state) == (yard.manifest.build, "D2", "ordered")
    assert "until " in capsys.readouterr().out


def test_orders_are_shown_without_tokens_and_withdrawn(yard: BootYard, capsys: pytest.CaptureFixture[str]) -> None:
    main(place("--serial", "S1", "--yes"))
    capsys.readouterr()
    assert main(["template", "order", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    token = yard.orders.all()[0].token
    assert shown["orders"][0]["node"] == "gpu-01" and "token" not in shown["orders"][0]
    assert main(["template", "order", "show"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("gpu-01\tordered\t") and token not in line
    assert main(["template", "order", "withdraw", "gpu-01"]) == 0
    assert main(["template", "order", "withdraw", "gpu-01"]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--yes"], "does not say which machine"),
        (["--serial", "Default string", "--yes"], "does not say which machine"),
    ],
)
def test_an_order_for_no_machine_is_refused(
    yard: BootYard, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(place(*words)) == 1
    assert said in capsys.readouterr().err


def test_a_build_that_is_not_there_is_refused(yard: BootYard, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["template", "order", "place", "gpu-01", "debian-13", "--disk", "D2", "--serial", "S1", "--yes"]) == 1
    assert "stable" in capsys.readouterr().err


def test_dnsmasq_gets_this_site_and_nothing_else(tmp_path: Path) -> None:
    text = dnsmasq(Site("http://10.0.0.1:8088/", "br1", "10.0.0.50,10.0.0.90,1h"), tmp_path)
    assert "interface=br1\n" in text and "dhcp-range=10.0.0.50,10.0.0.90,1h\n" in text
    assert "dhcp-boot=tag:ipxe,http://10.0.0.1:8088/boot/boot.ipxe\n" in text and f"tftp-root={tmp_path}\n" in text
    assert "@" not in text
    for site in (("ftp://x",), ("http://x y",), ("http://x", "br0\ndhcp-script=/bin/sh")):
        with pytest.raises(MetalserveError):
            Site(*site)


@pytest.mark.parametrize("more", [(), ("--spec", "debian-13-base")])
def test_a_build_is_proved_together_with_the_roles_that_it_was_made_of(
    yard: BootYard, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    compared: list[str] = []

    def compare(spec: TemplateSpec, shell: object, place: Path, source: str) -> Finding:
        compared.append(spec.name)
        return Finding("template-roles", "fail", "boot 1", "nothing to change", "2 to change")

    def prove(build: Build, *given: object, roles: Roles, advance: Advance, **more: object) -> Proof:
        advance("booting copy 1 of 2")
        return Proof(build.manifest, [roles(Shell(tmp), tmp)], {"boot_to_ssh_s": [61.0, 62.5]})

    tmp = yard.path
    monkeypatch.setattr(template_test, "compare_roles", compare)
    monkeypatch.setattr(template_test, "prove", prove)
    monkeypatch.setattr(template_test, "tool_root", lambda: None)
    assert main(["template", "test", "debian-13", "--key", yard.keys[0].where, *more]) == 1
    assert compared == [more[1] if more else "debian-13"]
    said = capsys.readouterr()
    assert "booting copy 1 of 2" in said.err
    assert "fail: template-roles: boot 1: 2 to change" in said.out
    assert "BAD; power-on to SSH 61 s, 62.5 s (QEMU, TCG: simulated hardware)" in said.out
