"""`metalserve template order` and `serve` from the command line; the boot tree's text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metalserve.cli import main
from metalserve.errors import MetalserveError
from metalserve.templates.boot_tree import Site, dnsmasq
from metalserve.templates.orders import Orders
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
