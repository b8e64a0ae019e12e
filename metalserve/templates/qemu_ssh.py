"""SSH into a machine in QEMU: with a key made for it, past host keys that are new each time."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.templates.qemu import Machine
from metalserve.trees.system import run


@dataclass(frozen=True)
class Shell:
    """How a machine is reached.

    Attributes:
        key: file of the private key.
        address: its address, or 127.0.0.1 with `port` forwarded.
        port: port.
        namespace: network namespace that it is reached from, or "".
        user: login.
    """

    key: Path
    address: str = "127.0.0.1"
    port: int = 22
    namespace: str = ""
    user: str = "root"

    def command(self, *words: str) -> list[str]:
        """Return the ssh command line that runs `words` on the machine."""
        where = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        return [
            *where, "ssh", "-i", str(self.key), "-p", str(self.port), "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
            "-o", "ConnectTimeout=20", "-o", "LogLevel=ERROR", f"{self.user}@{self.address}", *words,
        ]  # fmt: skip

    def run(self, script: str, *, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a shell script on the machine; its status 255 means that there was no connection.

        Raises:
            MetalserveError: it took longer than `timeout_s` seconds.
        """
        try:
            return subprocess.run(
                self.command("sh", "-s"), input=script, capture_output=True, text=True, errors="replace",
                timeout=timeout_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise MetalserveError(f"a command took longer than {timeout_s:g} s", where=f"ssh {self.address}") from None

    def wait(self, machine: Machine, timeout_s: float) -> float:
        """Wait until a command runs on the machine, and return the seconds since its power-on.

        Raises:
            MetalserveError: none did within `timeout_s` seconds, or the machine went off; with its last words.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                done = self.run("true")
                if done.returncode == 0:
                    return machine.age_s
                said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            except MetalserveError as error:  # it takes its time over it, too
                said = error.what
            machine.revive()
            if not machine.on or time.monotonic() > deadline:
                how = "is off" if not machine.on else f"did not answer by SSH within {timeout_s:g} s"
                raise MetalserveError(f"{how} ({said}); {machine.last_words()}", where=f"machine {machine.spec.serial}")
            time.sleep(1.0)


def new_key(directory: Path) -> tuple[Path, str]:
    """Make a key pair for one test in `directory`; return the private key's file and the public key's line."""
    path = directory / "ssh-key"
    if not path.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "metalserve template test", "-f", path])
    return path, path.with_suffix(".pub").read_text().strip()


def user_data(public_key: str) -> str:
    """Return cloud-init's user data that lets the key in as root."""
    return (
        "#cloud-config\ndisable_root: false\nssh_pwauth: false\nusers:\n"
        f"  - name: root\n    ssh_authorized_keys:\n      - {public_key}\n"
    )
