"""A machine in QEMU: UEFI, emulated NVMe drives with serial numbers, serial log, QMP. It ends with whoever started it.

TCG is forced: where /dev/kvm is there it may still hang (a KVM without the processor's support starts no stock kernel),
and QEMU falls back only where KVM cannot be opened at all. What runs here is simulated hardware and says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from metalserve.errors import MetalserveError
from metalserve.templates.toolroot import ToolRoot

MEMORY_MIB: Final = 1536
PROCESSORS: Final = 2
INSIDE: Final = "/machine"
"""Where the tool root has the machine's directory."""

BootFrom = Literal["disk", "network", "cd"]
_SLOW_S: Final = 900
KERNEL_ARGUMENTS: Final = (
    f"no_timer_check systemd.default_timeout_start_sec={_SLOW_S} systemd.default_device_timeout_sec={_SLOW_S}"
)
"""What a system needs in emulation on a busy host, where the kernel finds too few ticks of its timer and panics
(`NO_TICKS`), and units do not start within systemd's 90 seconds, plenty on metal. A UKI takes it from the firmware
(systemd-stub), since nothing of the image may be changed; GRUB takes nothing (`revive`)."""

NO_TICKS: Final = "end Kernel panic - not syncing: IO-APIC + timer doesn't work!"

_FIRMWARE: Final = "/usr/share/OVMF/OVMF_CODE_4M.fd"
_VARIABLES: Final = "usr/share/OVMF/OVMF_VARS_4M.fd"
_SECURE_FIRMWARE: Final = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
_SECURE_VARIABLES: Final = "usr/share/OVMF/OVMF_VARS_4M.ms.fd"
"""Microsoft's keys are enrolled in it, and Secure Boot is on, as in a server that comes from its factory."""


@dataclass(frozen=True)
class Drive:
    """An emulated NVMe drive.

    Attributes:
        file: name of its file in the machine's directory.
        serial: its serial number, 20 characters at most.
        format: of the file.
    """

    file: str
    serial: str
    format: Literal["raw", "qcow2"] = "raw"


@dataclass(frozen=True)
class MachineSpec:
    """A machine.

    Attributes:
        drives: its drives, in the order of their slots.
        system: which drive `disk` boots, from 0.
        boot: what it boots; what follows when that fails is the rest, as on a machine with a boot override.
        seed: name of the NoCloud image in its directory, or "".
        cd: name of the ISO in its directory that virtual media shows, or "".
        serial: serial number of the system.
        uuid: UUID of the system.
        mac: its Ethernet address.
        ssh_port: port of 127.0.0.1 that leads to its port 22; 0 with `tap`.
        tap: interface of the network namespace `namespace` that it is plugged into, or "".
        namespace: network namespace that QEMU runs in, or "".
        memory_mib: MiB of memory.
        processors: emulated processors.
        secure_boot: its firmware has Microsoft's keys, and Secure Boot is on.
    """

    drives: tuple[Drive, ...]
    system: int = 0
    boot: BootFrom = "disk"
    seed: str = ""
    cd: str = ""
    serial: str = "QEMU0001"
    uuid: str = "6d657461-6c73-4572-8665-000000000001"
    mac: str = "52:54:00:6d:73:01"
    ssh_port: int = 0
    tap: str = ""
    namespace: str = ""
    memory_mib: int = MEMORY_MIB
    processors: int = PROCESSORS
    secure_boot: bool = False

    def command(self) -> list[str]:
        """Return QEMU's command line, with paths as the tool root sees them."""
        firmware = _SECURE_FIRMWARE if self.secure_boot else _FIRMWARE
        order = {"disk": 2, "network": 3, "cd": 4, self.boot: 1}
        words = [
            "qemu-system-x86_64", "-name", self.serial, "-machine", "q35,smm=on" if self.secure_boot else "q35",
            "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(self.processors), "-m", str(self.memory_mib),
            "-display", "none", "-no-user-config", "-nodefaults",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={firmware}",
            "-drive", f"if=pflash,format=raw,unit=1,file={INSIDE}/variables.fd",
            "-uuid", self.uuid, "-smbios", f"type=1,manufacturer=metalserve,product=simulated,serial={self.serial}",
            "-smbios", f"type=11,value=io.systemd.stub.kernel-cmdline-extra={KERNEL_ARGUMENTS}",
            "-serial", f"file:{INSIDE}/serial.log", "-qmp", f"unix:{INSIDE}/qmp,server=on,wait=off",
            "-device", "virtio-rng-pci",
        ]  # fmt: skip
        if self.secure_boot:
            # the firmware's variables, keys among them, are written by its own code alone
            words += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        for number, drive in enumerate(self.drives):
            at = f"id=d{number},if=none,format={drive.format},discard=unmap,cache=unsafe,file={INSIDE}/{drive.file}"
            words += ["-drive", at, "-device", f"nvme,drive=d{number},serial={drive.serial}"]
            words[-1] += f",bootindex={order['disk']}" if number == self.system else f",bootindex={10 + number}"
        if self.seed:
            words += ["-drive", f"if=virtio,format=raw,readonly=on,file={INSIDE}/{self.seed}"]
        if self.cd:
            words += ["-drive", f"id=cd,if=none,media=cdrom,readonly=on,file={INSIDE}/{self.cd}"]
            words += ["-device", f"ide-cd,drive=cd,bootindex={order['cd']}"]
        if self.tap:
            words += ["-netdev", f"tap,id=n0,ifname={self.tap},script=no,downscript=no"]
        else:
            # restricted: a machine under test reaches nothing but what reaches it
            words += ["-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"]
        return [*words, "-device", f"virtio-net-pci,netdev=n0,mac={self.mac},bootindex={order['network']}"]


@dataclass
class Machine:
    """A machine that runs.

    Attributes:
        spec: what it is.
        directory: its files; `serial.log` is what its console said.
        process: QEMU.
        began: monotonic time of power-on, in seconds.
        resets: how often it was reset since its kernel found too few ticks.
    """

    spec: MachineSpec
    directory: Path
    process: subprocess.Popen[Any]
    began: float = field(default_factory=time.monotonic)
    resets: int = 0

    @property
    def on(self) -> bool:
        """True while it is powered on."""
        return self.process.poll() is None

    @property
    def age_s(self) -> float:
        """Seconds since power-on."""
        return time.monotonic() - self.began

    def console(self) -> str:
        """Return what the console said so far."""
        with contextlib.suppress(OSError):
            return (self.directory / "serial.log").read_text(errors="replace")
        return ""

    def wait_for(self, words: str, timeout_s: float, *, after: int = 0) -> float:
        """Wait until the console says `words` (behind character `after`) and return the seconds since power-on.

        Raises:
            MetalserveError: it did not within `timeout_s` seconds, or the machine went off; with its last words.
        """
        deadline = time.monotonic() + timeout_s
        while words not in self.console()[after:]:
            if not self.on or time.monotonic() > deadline:
                how = "is off" if not self.on else f"did not say {words!r} within {timeout_s:g} s"
                raise MetalserveError(f"{how}; {self.last_words()}", where=f"machine {self.spec.serial}")
            time.sleep(0.5)
        return self.age_s

    def revive(self) -> None:
        """Reset it if its kernel has found too few ticks of its timer: the busy host's fault, not the image's."""
        if self.console().count(NO_TICKS) > self.resets:
            self.resets += 1
            self.qmp("system_reset")

    def last_words(self) -> str:
        """Return the last line of the console, or of what QEMU said."""
        for name in ("qemu.log", "serial.log"):
            with contextlib.suppress(OSError):
                lines = (self.directory / name).read_text(errors="replace").split("\n")
                said = [plain for line in lines if (plain := "".join(c for c in line if c.isprintable()).strip())]
                if said and (name == "serial.log" or not self.on):
                    return f"last words: {said[-1][:300]}"
        return "it said nothing"

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Send a command to QEMU and return its answer.

        Raises:
            MetalserveError: QEMU does not answer, or refuses.
        """
        handle = os.open(self.directory, os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(20)
                # by the directory's descriptor, since the path of a socket may have 107 bytes only
                link.connect(f"/proc/self/fd/{handle}/qmp")
                with link.makefile("rwb") as stream:
                    json.loads(stream.readline())
                    for each in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                        stream.write(json.dumps(each).encode() + b"\n")
                        stream.flush()
                        answer = _answer(stream)
        except (OSError, ValueError) as error:
            raise MetalserveError(f"QEMU does not answer: {error}", where=f"machine {self.spec.serial}") from error
        finally:
            os.close(handle)
        if "error" in answer:
            raise MetalserveError(f"QEMU refuses {command}: {answer['error']}", where=f"machine {self.spec.serial}")
        return answer.get("return")

    def power_off(self, *, graceful_s: float = 0.0) -> None:
        """Switch it off; with `graceful_s`, by its power button first, which may take so many seconds."""
        if graceful_s and self.on:
            with contextlib.suppress(MetalserveError, subprocess.TimeoutExpired):
                self.qmp("system_powerdown")
                self.process.wait(graceful_s)
        if self.on:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        if self.on:
            self.process.kill()
        self.process.wait()


def _answer(stream: Any) -> dict[str, Any]:
    while True:
        line = stream.readline()
        if not line:
            raise ValueError("it hung up")
        answer: dict[str, Any] = json.loads(line)
        if "event" not in answer:
            return answer


@contextmanager
def powered_on(tools: ToolRoot, spec: MachineSpec, directory: Path, binds: Sequence[Path] = ()) -> Iterator[Machine]:
    """Switch a machine on; it is off again afterwards, whatever happened.

    Args:
        tools: has QEMU and its firmware.
        spec: the machine.
        directory: its files; the firmware's variables and the logs are added.
        binds: further directories that files of its drives refer to, at their own path.

    Raises:
        MetalserveError: QEMU ended at once; with what it said.
    """
    variables = directory / "variables.fd"
    if not variables.exists():
        shutil.copyfile(tools.path / (_SECURE_VARIABLES if spec.secure_boot else _VARIABLES), variables)
    (directory / "serial.log").unlink(missing_ok=True)
    (directory / "qmp").unlink(missing_ok=True)
    command = tools.command(spec.command(), binds={directory: INSIDE, **{path: str(path) for path in binds}})
    if spec.namespace:
        command = ["ip", "netns", "exec", spec.namespace, *command]
    # It dies with us even where nothing can be cleaned up any more. Emulation takes all processors that it gets.
    command = ["setpriv", "--pdeathsig", "KILL", "nice", "-n", "5", *command]
    with (directory / "qemu.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    machine = Machine(spec, directory, process)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
            raise MetalserveError(f"QEMU did not start; {machine.last_words()}", where=f"machine {spec.serial}")
        yield machine
    finally:
        machine.power_off()
