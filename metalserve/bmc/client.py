"""What a BMC can be asked, as an interface, and what it answers, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

Power = Literal["on", "off", "unknown"]
PowerAction = Literal["on", "off", "force-off", "graceful-off", "cycle"]
"""`off`: in order, by force when that takes too long; `cycle`: off by force, then on."""
GRACE_S = 60.0
"""Longest time that a host has to shut down in order, when `off` may then use force; seconds."""
BootDevice = Literal["pxe", "uefi-http", "cd", "disk"]


@dataclass(frozen=True, slots=True)
class Member:
    """One system that a BMC lists.

    Attributes:
        path: its place in the Redfish tree.
        serial: serial number; "" when it does not say.
        uuid: UUID; "" when it does not say.
        model: model; "" when it does not say.
        note: why it could not be read; "" when it could.
    """

    path: str
    serial: str = ""
    uuid: str = ""
    model: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which machine a BMC belongs to.

    Attributes:
        serial: serial number of the system.
        uuid: UUID of the system.
        model: model of the system.
        manufacturer: who built it.
        path: the system's place in the Redfish tree; "" for IPMI.
        members: every system that the BMC lists: a GPU baseboard is often one more.
        proven: serial or UUID of the settings is that of this system; without it nothing is changed.
        simulated: the BMC says that it is simulated.
    """

    serial: str
    uuid: str
    model: str
    manufacturer: str = ""
    path: str = ""
    members: tuple[Member, ...] = ()
    proven: bool = False
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class PowerSeen:
    """What the BMC shows after a power action.

    Attributes:
        power: as read last.
        seconds: what it took.
        words: what was done and seen.
    """

    power: Power
    seconds: float
    words: str


@dataclass(frozen=True, slots=True)
class BootSeen:
    """The boot override as the BMC shows it.

    Attributes:
        target: Redfish's word ("Pxe", "UefiHttp", "Cd", "UsbCd", "Hdd", "None"), "" when unknown.
        enabled: "Once", "Continuous" or "Disabled", "" when unknown.
        mode: "UEFI" or "Legacy", "" when unknown.
        words: what to know about it.
    """

    target: str
    enabled: str
    mode: str = ""
    words: str = ""

    @property
    def once(self) -> bool:
        """It ends by itself after the next boot. When not, `boot_back` must end it, or the host boots so for ever."""
        return self.enabled == "Once"


@dataclass(frozen=True, slots=True)
class MediaSeen:
    """A virtual drive as the BMC shows it."""

    path: str
    inserted: bool
    image: str = ""
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """A sensor's reading.

    Attributes:
        name: as the BMC calls it.
        kind: Redfish's word: "Temperature", "Power", "Rotational", "Voltage", ...
        value: the reading; `None` when the BMC gives none: unknown, not well.
        unit: unit of the value.
        health: "OK", "Warning", "Critical", or "" when it does not say.
        place: chassis or path.
    """

    name: str
    kind: str
    value: float | None
    unit: str
    health: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of a log of the BMC.

    Attributes:
        at: seconds since the epoch; `None` when its time is missing or no time.
        severity: "OK", "Warning", "Critical" or "".
        message: text.
        code: message id.
        log: name of the log that it stands in.
        id: its number there.
        origin: path of what it is about; "" when it does not say.
    """

    at: float | None
    severity: str
    message: str
    code: str = ""
    log: str = ""
    id: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """A GPU as the BMC of its baseboard sees it; `None` is unknown.

    Attributes:
        name: as the BMC calls it.
        model: model.
        serial: serial number.
        uuid: UUID.
        health: "OK", "Warning", "Critical" or "".
        temperature_c: temperature in degrees Celsius.
        power_w: power in watts.
        ecc_corrected: ECC errors corrected, lifetime.
        ecc_uncorrected: ECC errors not corrected, lifetime.
        metrics: other metrics by name, from metric reports.
        simulated: the BMC says that this GPU is simulated.
    """

    name: str
    model: str = ""
    serial: str = ""
    uuid: str = ""
    health: str = ""
    temperature_c: float | None = None
    power_w: float | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Firmware:
    """An entry of the firmware inventory."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Readings:
    """Sensors that were read, and what could not be."""

    items: tuple[Reading, ...]
    missed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Events:
    """Events, the oldest first, and logs that could not be read."""

    items: tuple[Event, ...]
    missed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs that the BMC knows, and what could not be read."""

    items: tuple[GpuReading, ...]
    missed: tuple[str, ...] = ()


class Bmc(Protocol):
    """A BMC. Every method ends within a deadline and raises nothing but `BmcError`.

    What changes the machine is refused unless serial or UUID of the settings is that of the system; it returns what
    the BMC shows afterwards, and raises `BmcError` when that is not what was asked for.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *stop: object) -> None: ...

    def close(self) -> None:
        """End the session: a BMC has room for few."""

    def identity(self) -> Identity:
        """Say which machine this is."""

    def power(self) -> Power:
        """Read the power state of the system; the host's own state is another matter."""

    def set_power(self, action: PowerAction, deadline_s: float = 120.0) -> PowerSeen:
        """Switch the system, and return when the BMC shows it."""

    def boot(self) -> BootSeen:
        """Read the boot override."""

    def boot_once(self, device: BootDevice, uri: str | None = None) -> BootSeen:
        """Have the next boot go to a device; `uri`: what UEFI HTTP shall load, by default what DHCP says."""

    def boot_back(self) -> BootSeen:
        """End the boot override: the host boots from its disk again."""

    def media(self) -> tuple[MediaSeen, ...]:
        """Read the virtual drives."""

    def insert(self, url: str) -> MediaSeen:
        """Insert an image into the virtual CD drive."""

    def eject(self) -> MediaSeen:
        """Take the image out of the virtual CD drive."""

    def sensors(self) -> Readings:
        """Read the sensors of all chassis."""

    def events(self, since: float = 0.0) -> Events:
        """Read the logs; entries from before `since` (seconds since the epoch) are left out, undated ones are not."""

    def gpu_telemetry(self) -> Gpus:
        """Read what the BMC knows of GPUs."""

    def firmware(self) -> tuple[Firmware, ...]:
        """Read the firmware inventory."""
