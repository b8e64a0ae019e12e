"""The boot server and the client of its protocol, over real HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalserve.errors import MetalserveError
from metalserve.templates.boot_scripts import chain_script, disk_script, kernel_arguments
from metalserve.templates.installer import Grant, boot_script, install_over_http, installs
from metalserve.templates.machine_identity import Identity
from metalserve.templates.manifest import DISK, MANIFEST
from metalserve.templates.order import Disk
from metalserve.templates.serving import boot_server
from metalserve.templates.serving_requests import asked_range
from tests.templates.boot_servers import DISKS, NODE, BootYard, onto
from tests.templates.builds import make_keys


@pytest.fixture
def yard(tmp_path: Path) -> BootYard:
    return BootYard(tmp_path)


@pytest.fixture
def url(yard: BootYard) -> Iterator[str]:
    with yard.serving() as base:
        yield base


def ask(
    url: str, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


def test_a_machine_is_installed_once_and_boots_its_disk_afterwards(yard: BootYard, url: str, tmp_path: Path) -> None:
    assert not installs(boot_script(url, NODE))
    yard.order()
    script = boot_script(url, NODE)
    assert installs(script)
    assert f"boot=deploy ms_server={url} " in script and "BOOTIF=01-52-54-00-00-00-01" in script
    key = "ssh-ed25519 " + "A" * 68
    outcome = install_over_http(url, NODE, DISKS, onto(tmp_path), keys=yard.keys, host_keys=lambda grant: [key])
    assert (outcome.permitted, outcome.written, outcome.taken) == (True, True, True)
    assert (tmp_path / "D2").read_bytes().startswith(b"disk 0 of debian-13")
    assert not (tmp_path / "D1").exists()
    found = yard.orders.get("gpu-01")
    assert found is not None and found.state == "done" and found.host_keys == (key,)
    # A BMC that ignores Once boots it from the network again.
    assert not installs(boot_script(url, NODE))
    again = install_over_http(url, NODE, DISKS, onto(tmp_path), keys=yard.keys)
    assert not again.permitted and "its order has been used: done" in again.words
    assert [note["words"] for note in yard.notes if note["asked"] == "POST /v1/result"] == [
        f"gpu-01: done: {yard.manifest.raw.size} bytes on D2, 1 host keys"
    ]
    assert found.token not in yard.log.getvalue()


def test_another_machine_gets_nothing(yard: BootYard, url: str, tmp_path: Path) -> None:
    yard.order()
    other = Identity(serial="S2", macs=("52:54:00:00:00:01",))
    assert not installs(boot_script(url, other))
    outcome = install_over_http(url, other, DISKS, onto(tmp_path), keys=yard.keys)
    assert (outcome.permitted, outcome.words) == (
        False,
        "not permitted: serial S2, MAC 52:54:00:00:00:01: no order for this machine",
    )


def test_a_wrong_disk_is_refused_and_the_order_stays(yard: BootYard, url: str, tmp_path: Path) -> None:
    yard.order(disk="D9")
    outcome = install_over_http(url, NODE, DISKS, onto(tmp_path), keys=yard.keys)
    assert not outcome.permitted and "disk D9 is not in this machine" in outcome.words
    found = yard.orders.get("gpu-01")
    assert found is not None and found.state == "ordered"


def test_a_small_disk_is_refused(yard: BootYard, url: str, tmp_path: Path) -> None:
    yard.order()
    small = [Disk(serial="D2", size_bytes=yard.manifest.raw.size - 1)]
    outcome = install_over_http(url, NODE, small, onto(tmp_path), keys=yard.keys)
    assert not outcome.permitted and f"the image {yard.manifest.raw.size}" in outcome.words


def test_a_build_that_is_not_signed_rightly_is_not_given_out(yard: BootYard, url: str, tmp_path: Path) -> None:
    yard.order()
    manifest = yard.build.path / MANIFEST
    manifest.write_bytes(manifest.read_bytes().replace(b'"packages": 1', b'"packages": 2'))
    outcome = install_over_http(url, NODE, DISKS, onto(tmp_path), keys=yard.keys)
    assert not outcome.permitted and "the manifest is not what key" in outcome.words
    assert list(tmp_path.glob("D*")) == []


def test_the_installer_itself_refuses_a_key_that_is_not_its_own(yard: BootYard, url: str, tmp_path: Path) -> None:
    yard.order()
    (tmp_path / "other").mkdir()
    _, others = make_keys(tmp_path / "other")
    wiped: list[Grant] = []
    outcome = install_over_http(url, NODE, DISKS, onto(tmp_path), keys=others, wipe=wiped.append)
    assert outcome.permitted and not outcome.written and outcome.taken
    assert outcome.words.startswith("nothing was written: ") and "is not trusted" in outcome.words
    assert list(tmp_path.glob("D*")) == [] and wiped == []
    found = yard.orders.get("gpu-01")
    assert found is not None and found.state == "failed" and found.words == outcome.words


def test_a_wrong_image_is_wiped_and_said(yard: BootYard, url: str, tmp_path: Path) -> None:
    yard.order()
    wiped: list[Grant] = []
    outcome = install_over_http(url, NODE, DISKS, lambda *_: "0" * 64, keys=yard.keys, wipe=wiped.append)
    assert not outcome.written and outcome.words.startswith("wiped: ") and [g.disk for g in wiped] == ["D2"]
    found = yard.orders.get("gpu-01")
    assert found is not None and found.state == "failed" and "the manifest says" in found.words


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MetalserveError, match="does not answer"):
        install_over_http("http://127.0.0.1:9", NODE, DISKS, onto(tmp_path), keys=[])


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        ("", 10, (0, 9)),
        ("bytes=0-", 10, (0, 9)),
        ("bytes=3-5", 10, (3, 5)),
        ("bytes=3-99", 10, (3, 9)),
        ("bytes=-4", 10, (6, 9)),
        ("bytes=-40", 10, (0, 9)),
        ("bytes=-0", 10, (1, 0)),
        ("bytes=10-", 10, (1, 0)),
        ("bytes=5-3", 10, (1, 0)),
        ("bytes=0-1,4-5", 10, (0, 9)),
        ("lines=1-2", 10, (0, 9)),
    ],
)
def test_ranges(header: str, size: int, expected: tuple[int, int]) -> None:
    assert asked_range(header, size) == expected


def test_files_are_sent_whole_and_in_parts(yard: BootYard, url: str) -> None:
    path = f"/v1/files/debian-13/{yard.manifest.build}/{DISK}"
    whole = (yard.build.path / DISK).read_bytes()
    status, body, headers = ask(url, "GET", path)
    assert (status, body, headers["Accept-Ranges"]) == (200, whole, "bytes")
    status, body, headers = ask(url, "GET", path, Range="bytes=3-9")
    assert (status, body, headers["Content-Range"]) == (206, whole[3:10], f"bytes 3-9/{len(whole)}")
    status, body, headers = ask(url, "GET", path, Range=f"bytes={len(whole)}-")
    assert (status, body, headers["Content-Range"]) == (416, b"", f"bytes */{len(whole)}")
    status, body, headers = ask(url, "HEAD", path)
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(whole)))
    assert ask(url, "GET", "/boot/installer/vmlinuz")[:2] == (200, b"kernel")
    yard.shelf.promote("debian-13", yard.manifest.build)
    assert ask(url, "GET", f"/v1/files/debian-13/stable/{DISK}")[1] == whole


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/files/debian-13",
        "/v1/files/../secret.key",
        "/v1/files/debian-13/..%2f..%2fsecret.key",
        "/v1/files/debian-13/link/secret.key",
        "/v1/files/debian-13/.lock",
        "/boot/../secret.key",
        "/boot/installer",
        "/boot//etc/passwd",
        "/orders/gpu-01.json",
    ],
)
def test_nothing_else_is_served(yard: BootYard, url: str, path: str) -> None:
    (yard.shelf.path / "debian-13" / "link").symlink_to(yard.path)
    yard.order()
    assert ask(url, "GET", path)[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/permission", b"{", {}, 400),
        ("/v1/permission", b"[]", {}, 400),
        ("/v1/permission", json.dumps({"identity": {}, "disks": [{"size_bytes": -1}]}).encode(), {}, 400),
        ("/v1/permission", b"", {"Content_Length": "999999999"}, 413),
        ("/v1/permission", b"", {"Content_Length": "-1"}, 411),
        ("/v1/result", b'{"order": "x", "token": "y", "status": "fine"}', {}, 400),
        ("/v1/result", b'{"order": "x", "token": "y", "status": "ok"}', {}, 409),
        ("/v1/result", b'{"order": "x", "token": "y", "status": "ok", "host_keys": ["ssh-rsa A\\nb"]}', {}, 400),
        ("/v1/other", b"{}", {}, 404),
    ],
)
def test_what_no_installer_asks_is_refused(
    url: str, path: str, body: bytes, headers: dict[str, Any], status: int
) -> None:
    found, answer, _ = ask(url, "POST", path, body, **headers)
    assert found == status and json.loads(answer)["reason"]


def test_a_host_that_is_none_does_not_reach_a_script(yard: BootYard, url: str) -> None:
    yard.order()
    path = "/v1/boot/ipxe?serial=S1&mac=52:54:00:00:00:01"
    assert ask(url, "GET", path, Host="evil/$(x)")[0] == 400
    assert b"ms_server=http://boot.example:8080 " in ask(url, "GET", path, Host="boot.example:8080")[1]
    with yard.serving(url="http://10.0.0.1:8088/", arguments="console=ttyS1,115200") as other:
        script = ask(other, "GET", path)[1].decode()
    assert "ms_server=http://10.0.0.1:8088 " in script and "console=ttyS1,115200" in script


def test_an_order_that_cannot_be_read_permits_nothing(yard: BootYard, url: str) -> None:
    yard.order()
    (yard.orders.directory / "gpu-02.json").write_text("{")
    body = json.dumps({"identity": NODE.model_dump(), "disks": [d.model_dump() for d in DISKS]}).encode()
    status, answer, _ = ask(url, "POST", "/v1/permission", body)
    assert status == 500 and json.loads(answer)["write"] is False
    found = yard.orders.get("gpu-01")
    assert found is not None and found.state == "ordered"


def test_scripts_always_end_at_the_disk() -> None:
    for script in (chain_script("http://10.0.0.1"), disk_script("why\nboot ${x}")):
        assert script.startswith("#!ipxe\n") and "iseq ${platform} efi && exit 1 ||" in script.splitlines()[-1]
    assert "boot ${x}" not in disk_script("why\nboot ${x}")
    with pytest.raises(MetalserveError, match="is no kernel argument"):
        kernel_arguments("http://10.0.0.1", "console=ttyS0 a;b")
    assert kernel_arguments("http://10.0.0.1", "ip=10.0.0.9::10.0.0.1:255.255.255.0::eth0:off").count("ip=") == 1


def test_a_port_that_is_taken_is_said(yard: BootYard, url: str) -> None:
    with pytest.raises(MetalserveError, match="cannot listen"):
        boot_server(yard.served(), "127.0.0.1", int(url.rpartition(":")[2]))


def test_a_connection_that_is_reset_is_no_error(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as link:
        link.sendall(b"GET /boot/installer/vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert link.recv(4096).startswith(b"HTTP/1.1 200")
        # closed at once, and not taken leave of: what a machine does that starts the kernel which it has fetched
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(50):
        assert ask(url, "GET", "/boot/installer/vmlinuz")[0] == 200
        time.sleep(0.01)
    assert "Traceback" not in capfd.readouterr().err
