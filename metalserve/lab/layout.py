"""Where the lab keeps its things, and what it calls them: names and addresses derived from one number.

Everything the lab makes lies under one directory, and everything it makes in the kernel (network namespace,
interfaces) carries the lab's number, so that two labs can stand side by side and each can be removed whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.paths import lab_directory

DEFAULT_ID = 77
LAST_OWN_ID = 149
"""The last number that a lab takes by itself; those above are for labs that are given theirs, as tests' are."""
FIRST_HOST = 11
MAX_HOSTS = 200
SERVICE_PORT = 8080
FIRST_BMC_PORT = 9011
"""Port of the first host's BMC, on the controller's address in the lab's network; the others follow."""


@dataclass(frozen=True)
class Layout:
    """Paths, names and addresses of one lab.

    Attributes:
        root: the lab's directory.
        lab_id: 1..250; third byte of the lab's network and part of every kernel name.
    """

    root: Path
    lab_id: int = DEFAULT_ID

    @classmethod
    def current(cls) -> Layout:
        """Return the lab that the environment names (`METALSERVE_LAB_DIR`, `METALSERVE_LAB_ID`).

        Without a number in the environment it has the one that its first `up` found free (`choose_number`).

        Raises:
            MetalserveError: `METALSERVE_LAB_ID` is not a number from 1 to 250.
        """
        root = lab_directory()
        text = os.environ.get("METALSERVE_LAB_ID")
        if not text:
            return cls(root=root, lab_id=_own_number(root) or DEFAULT_ID)
        if not text.isdigit() or not 1 <= int(text) <= 250:
            raise MetalserveError(
                f"'{text}' is not a lab number", where="METALSERVE_LAB_ID", remedy="give a number from 1 to 250"
            )
        return cls(root=root, lab_id=int(text))

    @property
    def number_file(self) -> Path:
        """Says which number the lab has taken; kept together with the cache, whose trees name its addresses."""
        return self.root / "number"

    # -- network ---------------------------------------------------------------------------------------------
    @property
    def network(self) -> str:
        """First three bytes of the lab's /24."""
        return f"10.231.{self.lab_id}"

    @property
    def service_address(self) -> str:
        """Address of the bridge: the file service listens there."""
        return f"{self.network}.1"

    @property
    def controller_address(self) -> str:
        """The machine's own address in the lab's network."""
        return f"{self.network}.254"

    @property
    def service_url(self) -> str:
        """Base URL of the file service, without a slash at its end."""
        return f"http://{self.service_address}:{SERVICE_PORT}"

    @property
    def namespace(self) -> str:
        """Name of the network namespace."""
        return f"mslab{self.lab_id}"

    @property
    def namespace_path(self) -> Path:
        """File that names the network namespace."""
        return Path("/run/netns") / self.namespace

    @property
    def controller_link(self) -> str:
        """The machine's end of the veth pair into the lab."""
        return f"mslab{self.lab_id}"

    def host_address(self, index: int) -> str:
        """Address of the host with this index (from 0)."""
        return f"{self.network}.{FIRST_HOST + index}"

    def bmc_address(self, index: int) -> str:
        """Address and port of a host's BMC, as the controller reaches it."""
        return f"{self.controller_address}:{FIRST_BMC_PORT + index}"

    def machine_name(self, index: int) -> str:
        """What systemd-nspawn calls the host: short, because the bridge port is named after it (15 bytes)."""
        return f"ms{self.lab_id}-{FIRST_HOST + index}"

    def port_name(self, index: int) -> str:
        """The host's port on the bridge, named by systemd-nspawn."""
        return f"vb-{self.machine_name(index)}"

    @property
    def lock(self) -> Path:
        """Held by whoever changes the lab."""
        return Path(f"/run/metalserve-{self.namespace}.lock")

    @property
    def owner_file(self) -> Path:
        """Says which directory the lab of this number lies in."""
        return Path(f"/run/metalserve-{self.namespace}.json")

    # -- files -----------------------------------------------------------------------------------------------
    @property
    def cache(self) -> Path:
        """What is slow to make and kept by `down --keep-cache`."""
        return self.root / "cache"

    @property
    def www(self) -> Path:
        """Served by the file service."""
        return self.root / "www"

    @property
    def keys(self) -> Path:
        """SSH key pair and signing key."""
        return self.root / "keys"

    @property
    def ssh_key(self) -> Path:
        """The controller's private SSH key."""
        return self.keys / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """Host keys of all hosts, in OpenSSH's format."""
        return self.root / "known_hosts"

    @property
    def fleet_file(self) -> Path:
        """What runs: written by `up`, read by `inventories/lab.py`."""
        return self.root / "fleet.json"

    @property
    def manifest(self) -> Path:
        """Manifest of the lab's model."""
        return self.root / "manifest.yaml"

    @property
    def made_names(self) -> tuple[str, ...]:
        """Everything the lab makes in its directory; `down` removes this and nothing else."""
        return (
            "cache", "hosts", "www", "keys", "made", "known_hosts", "fleet.json", "manifest.yaml",
            "bmc", "bmc.json", "bmc.log", "boot-server",
            "number", "service.json", "service.log", "requests.log", "delay.json", "delay.log",
        )  # fmt: skip

    @property
    def bmcs(self) -> Path:
        """Directory of the hosts' BMCs: their certificates, what they remember, their faults."""
        return self.root / "bmc"

    def bmc(self, name: str) -> Path:
        """Directory of one host's BMC; outlives the host's disks, as a BMC does."""
        return self.bmcs / "hosts" / name

    @property
    def boot_server(self) -> Path:
        """Says what the lab's network announces to those who boot from it: the base URL of a boot server."""
        return self.root / "boot-server"

    def host(self, name: str) -> Path:
        """Directory of one host."""
        return self.root / "hosts" / name


def _own_number(root: Path) -> int | None:
    try:
        text = (root / "number").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and 1 <= int(text) <= 250 else None
