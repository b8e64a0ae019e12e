"""The firmware of a lab host when it boots from the network or a virtual CD: it speaks the installer's protocol.

The protocol is that of metalserve's boot server: ask for permission with serial numbers, write, say how it went. What
a real installer writes is an image of a disk; a lab host's disk is a directory, so the root file system that the same
build has beside its image is unpacked in its place, or the lab's own tree where the build has none. SIMULATED.
"""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from metalserve.errors import MetalserveError
from metalserve.lab.bmc.machine import SYSTEM_DISK_BYTES, disk_of, mac_of, serial_of, uuid_of

if TYPE_CHECKING:
    from metalserve.lab.bmc.board import Board

TIMEOUT_S = 30.0
ROOT = "root.tar.zst"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the lab is never behind a proxy


def boot(board: Board, target: str, uri: str | None, cancel: threading.Event) -> bool:
    """Boot from a device; return whether the host boots once more (it has been installed).

    What cannot be reached is skipped, as firmware goes on to the next device of its list.
    """
    if target in ("Pxe", "UefiHttp"):
        base = _origin(uri) if uri else board.boot_server()
    elif target in ("Cd", "UsbCd"):
        media = board.state()["media"]
        base = _origin(str(media["Image"])) if media["Inserted"] and media["Image"] else None
    else:
        return False
    if not base:
        board.note(f"Nothing to boot from {target}", "Warning", "Metalserve.1.0.BootDeviceEmpty")
        return False
    board.note(f"Booting from {target}: {base}", code="Metalserve.1.0.BootDevice")
    board.progress = "OSBootStarted"
    try:
        if target == "Pxe":
            name = board.machine.name
            query = f"mac={quote(mac_of(name))}&serial={serial_of(name)}&uuid={uuid_of(name)}"
            _read(f"{base}/v1/boot/ipxe?{query}")
        return install(board, base, cancel)
    except (OSError, ValueError, MetalserveError) as error:
        board.note(f"Boot from {target} failed: {error}", "Warning", "Metalserve.1.0.BootDeviceFailed")
        return False


def install(board: Board, base: str, cancel: threading.Event) -> bool:
    """Ask for permission and write the disk; return whether it was written.

    Raises:
        OSError, ValueError: the boot server does not answer, or not as it should; nothing was written.
    """
    name = board.machine.name
    answer = _post(f"{base}/v1/permission", {"identity": identity(name), "disks": disks(board)})
    if not answer.get("write"):
        board.note(f"Not installed: {answer.get('reason', 'no reason given')}", code="Metalserve.1.0.NotInstalled")
        return False
    said = {"order": answer["order"], "token": answer["token"]}
    if answer["disk"] != disk_of(name):
        _post(f"{base}/v1/result", {**said, "status": "bad", "words": f"no disk {answer['disk']} to install on"})
        return False
    if cancel.is_set():
        return False
    status, words, keys = "bad", "", list[str]()
    try:
        root = fetched(board.directory, answer)
        board.remember(unbootable=True)  # a power cut while it is written leaves half a disk
        board.machine.write(root)
        board.remember(unbootable=False)
        keys = board.machine.host_keys()
        status, words = "ok", f"simulated: {'root file system of the build' if root else 'the tree of the lab'} written"
    except (OSError, ValueError, MetalserveError) as error:
        words = str(error)
        board.remember(unbootable=True)
    board.note(f"Installation: {status}: {words}", "OK" if status == "ok" else "Critical", "Metalserve.1.0.Installed")
    known = {"host_keys": keys} if keys else {}
    _post(f"{base}/v1/result", {**said, "status": status, "words": words, **known})
    return True


def identity(name: str) -> dict[str, Any]:
    """Return what the installer tells of the machine."""
    return {"serial": serial_of(name), "uuid": uuid_of(name), "macs": [mac_of(name)]}


def disks(board: Board) -> list[dict[str, Any]]:
    """Return the disks that the installer sees: the system's, and the drives of the profile."""
    found = [
        {
            "serial": disk_of(board.machine.name),
            "size_bytes": SYSTEM_DISK_BYTES,
            "model": "metalserve lab system disk (simulated)",
            "name": "sda",
        }
    ]
    for number, drive in enumerate(board.machine.profile().get("nvme") or []):
        found.append(
            {
                "serial": drive.get("serial", ""),
                "size_bytes": int(drive["size_gb"]) * 10**9,
                "model": drive["model"],
                "name": f"nvme{number}n1",
            }
        )
    return found


def fetched(directory: Path, answer: dict[str, Any]) -> Path | None:
    """Fetch the build's root file system and compare it with the manifest; `None` when the build has none.

    Without one the image itself is fetched and compared, so that a damaged image fails here as it does on metal.

    Raises:
        MetalserveError: it is not what the manifest says.
    """
    manifest = json.loads(_read(answer["manifest"]))
    files: dict[str, Any] = manifest.get("files") or {}
    image = str(answer["image"])
    wanted = ROOT if ROOT in files else image.rsplit("/", 1)[-1]
    target = directory / "incoming"
    found = hashlib.sha256()
    with _OPENER.open(f"{image.rsplit('/', 1)[0]}/{wanted}", timeout=TIMEOUT_S) as stream, target.open("wb") as file:
        while piece := stream.read(1 << 20):
            found.update(piece)
            if wanted == ROOT:
                file.write(piece)
    should = (files.get(wanted) or {}).get("sha256")
    if found.hexdigest() != should:
        target.unlink(missing_ok=True)
        raise MetalserveError(f"has SHA-256 {found.hexdigest()}, the manifest says {should}", where=wanted)
    if wanted != ROOT:
        target.unlink(missing_ok=True)
        return None
    return target.rename(directory / ROOT)


def _origin(url: str) -> str | None:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("http", "https") and parts.netloc else None


def _read(url: str) -> bytes:
    with _OPENER.open(url, timeout=TIMEOUT_S) as answer:
        content: bytes = answer.read(16 << 20)
    return content


def _post(url: str, value: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(value).encode(), {"Content-Type": "application/json"})  # noqa: S310
    try:
        with _OPENER.open(request, timeout=TIMEOUT_S) as answer:
            content = answer.read(1 << 20)
    except urllib.error.HTTPError as error:
        content = error.read(1 << 20)  # a refusal has its reason in the body
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError(f"{url} answers no JSON object")
    return found
