"""A boot server with a signed build on its shelf, and an order or none."""

from __future__ import annotations

import io
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metalserve.templates.installer import Grant
from metalserve.templates.machine_identity import Identity
from metalserve.templates.manifest import Manifest
from metalserve.templates.order import Disk, Order
from metalserve.templates.orders import Orders
from metalserve.templates.serving import Served, boot_server
from metalserve.templates.shelf import Shelf
from metalserve.templates.signing import TrustedKey
from tests.templates.builds import make_build, make_keys

NODE = Identity(serial="S1", macs=("52:54:00:00:00:01",))
DISKS = [Disk(serial="D1", size_bytes=10**6, name="nvme0n1"), Disk(serial="D2", size_bytes=10**6, name="nvme1n1")]


class BootYard:
    """What a boot server serves, and what it wrote into its log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key, self.keys = make_keys(path)
        self.shelf = Shelf(path / "shelf")
        work = path / "work"
        manifest = make_build(work)
        self.build = self.shelf.publish(work, manifest, key=self.key)
        self.manifest: Manifest = manifest
        self.orders = Orders(path / "orders")
        self.log = io.StringIO()
        self.boot = path / "boot"
        (self.boot / "installer").mkdir(parents=True)
        (self.boot / "installer" / "vmlinuz").write_bytes(b"kernel")

    def order(self, node: str = "gpu-01", identity: Identity = NODE, disk: str = "D2", **more: Any) -> Order:
        return self.orders.place(
            node, identity=identity, template="debian-13", build=self.manifest.build, disk_serial=disk, **more
        )

    def served(self, **more: Any) -> Served:
        known: dict[str, Any] = {"keys": tuple(self.keys), "boot": self.boot, "log": self.log, **more}
        return Served(self.shelf.path, self.orders, **known)

    @contextmanager
    def serving(self, **more: Any) -> Iterator[str]:
        """Serve on a free port of 127.0.0.1; the value is the URL."""
        server = boot_server(self.served(**more), "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    @property
    def notes(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


def onto(directory: Path) -> Any:
    """Return a `Write` that uncompresses the image into `directory`, a file a disk."""

    def write(grant: Grant, manifest: Manifest, stream: Any) -> str:
        from hashlib import sha256

        content = subprocess.run(["zstd", "-dcq"], input=stream.read(), capture_output=True, check=True).stdout
        (directory / grant.disk).write_bytes(content)
        return sha256(content).hexdigest()

    return write


__all__ = ["DISKS", "NODE", "BootYard", "TrustedKey", "onto"]
