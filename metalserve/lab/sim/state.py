"""What a simulated host knows about itself: profile and faults (written from outside), and its own state.

`state/boot/` is what a reboot clears (loaded modules, kernel log, daemons); `state/` keeps the rest.
"""

from __future__ import annotations

import fcntl
import json
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from metalserve.lab.profiles import Profile

ROOT = "/opt/metalserve-lab"
CUDA_OF_BRANCH = {
    "535": "12.2",
    "550": "12.4",
    "570": "12.8",
    "575": "12.9",
    "580": "13.0",
    "590": "13.1",
    "595": "13.2",
    "610": "13.3",
    "615": "13.4",
}
"""CUDA version that nvidia-smi prints, by driver branch (CUDA release notes, table of shipped drivers)."""

REBOOT_CURES = ("gpu-off-bus", "remap-pending", "gpu-needs-reset", "driver-mismatch")
RESET_CURES = ("remap-pending", "gpu-needs-reset")
"""Faults that are gone after a reboot, as on metal: the bus is enumerated again, the remap is applied, the module
is loaded from disk. A fault injected as `sticky` stays. `RESET_CURES` are those that a reset of the GPU ends."""


class Lab:
    """The state directory of one simulated host, and the file system it stands in.

    Args:
        root: the directory with `profile.json`, `faults.json` and `state/`.
        system: the root of the guest's file system ("/" but for tests).
    """

    def __init__(self, root: str = ROOT, system: str = "/") -> None:
        self.root = root
        self.system = system
        self._profile: Profile | None = None

    @property
    def profile(self) -> Profile:
        """The machine profile."""
        if self._profile is None:
            self._profile = self.read("profile.json", {})
        return self._profile

    @property
    def only_gpus(self) -> bool:
        """The host is a machine with a kernel, drives and a udev of its own; GPUs and their driver are simulated."""
        return bool(self.profile.get("only_gpus"))

    def path(self, *parts: str) -> str:
        """A path below the state directory's root."""
        return os.path.join(self.root, *parts)

    def boot(self, *parts: str) -> str:
        """A path below `state/boot`, which a reboot clears."""
        return os.path.join(self.root, "state", "boot", *parts)

    def file(self, path: str) -> str:
        """An absolute path of the guest's file system."""
        return os.path.join(self.system, path.lstrip("/"))

    def read(self, name: str, default: Any) -> Any:
        """JSON below the root, or the default when it is missing or broken."""
        try:
            with open(self.path(name), encoding="utf-8") as stream:
                return json.load(stream)
        except (OSError, ValueError):
            # Written from outside at any time: a missing or unreadable file counts as empty, a tool never dies of it.
            return default

    def faults(self) -> list[dict[str, Any]]:
        """Faults that are in force: injected from outside and not cured by a reboot or reset since."""
        found = self.read("faults.json", {}).get("faults", [])
        cured = set(self.read("state/cured.json", []))
        return [fault for fault in found if fault.get("id") not in cured]

    def fault(self, kind: str, gpu: int | None = None) -> dict[str, Any] | None:
        """The first fault of this kind in force, for this GPU when one is named."""
        for fault in self.faults():
            if fault["kind"] == kind and (gpu is None or fault.get("gpu") == gpu):
                return fault
        return None

    def was_remapped(self, gpu: int) -> bool:
        """Whether a remap that was pending on this GPU has been applied by a reset or reboot."""
        active = {fault["id"] for fault in self.faults()}
        return any(
            f["kind"] == "remap-pending" and f.get("gpu") == gpu and f["id"] not in active
            for f in self.read("faults.json", {}).get("faults", [])
        )

    def cure(self, kinds: tuple[str, ...], gpu: int | None = None, *, sticky_too: bool = False) -> None:
        """Note faults as cured from inside (by a reset, a reload or a reboot)."""
        ids = [
            fault["id"]
            for fault in self.faults()
            if fault["kind"] in kinds
            and (gpu is None or fault.get("gpu") == gpu)
            and (sticky_too or not fault.get("sticky"))
        ]
        if ids:
            self.write("state/cured.json", sorted({*self.read("state/cured.json", []), *ids}))

    def write(self, name: str, value: Any) -> None:
        """Write JSON below the root, atomically."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{os.getpid()}.new"
        with open(temporary, "w", encoding="utf-8") as stream:
            json.dump(value, stream)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)

    def locked(self) -> Lock:
        """A lock over the state, for read-change-write."""
        return Lock(self.boot(".lock"))

    # -- kernel modules ------------------------------------------------------------------------------------------

    def modules(self) -> dict[str, dict[str, str]]:
        """Loaded simulated modules, name (with underscores) -> version and flavour."""
        loaded: dict[str, dict[str, str]] = self.read("state/boot/modules.json", {})
        return loaded

    def set_modules(self, modules: dict[str, dict[str, str]]) -> None:
        """Replace the loaded modules."""
        self.write("state/boot/modules.json", modules)

    def module_version(self) -> str | None:
        """Version of the loaded nvidia module, or None when it is not loaded."""
        module = self.modules().get("nvidia")
        if module is None:
            return None
        fault = self.fault("driver-mismatch")
        if fault:
            return str(fault.get("version") or older_version(module["version"]))
        return module["version"]

    def stand_in(self, package: str) -> str | None:
        """Upstream version of an installed stand-in package (its marker file), or None."""
        try:
            with open(self.file(f"/usr/share/metalserve-lab/stand-ins/{package}"), encoding="utf-8") as stream:
                return stream.read().strip() or None
        except OSError:
            return None

    # -- daemons -------------------------------------------------------------------------------------------------

    def daemon(self, name: str) -> dict[str, Any] | None:
        """What a running simulated daemon wrote about itself; None when it is not alive.

        A daemon holds a lock on its file for as long as it lives: unlike a pid, that is seen in a container too.
        """
        try:
            with open(self.boot(f"{name}.json"), encoding="utf-8") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    noted: dict[str, Any] = json.load(stream)
                    return noted
        except (OSError, ValueError):
            return None
        return None

    def start_daemon(self, name: str, argv0: str, noted: dict[str, Any]) -> int:
        """Start a process that does nothing but hold the daemon's lock; returns its pid."""
        self.write(f"state/boot/{name}.json", noted)
        descriptor = os.open(self.boot(f"{name}.json"), os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.set_inheritable(descriptor, True)
        child = os.fork()
        if child == 0:
            os.setsid()
            null = os.open("/dev/null", os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            os.execv("/bin/sleep", [argv0, "infinity"])  # noqa: S606
        os.close(descriptor)
        return child

    # -- kernel log ----------------------------------------------------------------------------------------------

    def booted_at(self) -> float:
        """Wall time of this boot, seconds since the epoch."""
        noted = self.read("state/boot/started.json", {})
        return float(noted.get("at", time.time()))

    def log(self, *lines: str, level: int = 6, at: float | None = None) -> None:
        """Append lines to the simulated kernel log."""
        os.makedirs(self.boot(), exist_ok=True)
        now = time.time() if at is None else at
        with open(self.boot("dmesg.jsonl"), "a", encoding="utf-8") as stream:
            for line in lines:
                stream.write(json.dumps({"at": now, "level": level, "text": line}) + "\n")

    def log_lines(self) -> Iterator[dict[str, Any]]:
        """The simulated kernel log, oldest first."""
        try:
            with open(self.boot("dmesg.jsonl"), encoding="utf-8") as stream:
                for line in stream:
                    yield json.loads(line)
        except OSError:
            return


class Lock:
    """An exclusive lock on a file; silently none where the file cannot be written (tools run by plain users)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> Lock:
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError:
            self._descriptor = -1
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def older_version(version: str) -> str:
    """A plausible earlier version of the same driver branch, for the mismatch fault."""
    branch = version.split(".", 1)[0]
    return {"580": "580.159.03", "595": "595.71.05"}.get(branch, f"{branch}.10.01")


def cuda_version(driver: str) -> str:
    """CUDA version that this driver brings."""
    return CUDA_OF_BRANCH.get(driver.split(".", 1)[0], "13.0")
