"""What a template's specification says of its disk, of what firmware starts, and of the first boot."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from metalserve.settings.common import Section


class DiskSpec(Section):
    """The image's layout: GPT, an EFI system partition, the root file system; the first boot grows the last one."""

    esp_mib: int = Field(256, ge=64, le=4096, description="MiB of the EFI system partition")
    root_mib: int = Field(4096, ge=512, le=65536, description="MiB of the root file system in the image")
    file_system: Literal["ext4"] = Field("ext4", description="of the root")


class BootSpec(Section):
    """What firmware starts (`boot_chain`)."""

    chain: Literal["distribution", "uki"] | None = Field(
        None,
        description="the distribution's signed shim, GRUB and kernel, or one unified kernel image that nobody signed; "
        "none: the distribution's where an image can have it",
    )
    secure_boot: Literal["optional", "required"] = Field(
        "optional", description="required: a build with a part or a module that Secure Boot would refuse fails"
    )


class FirstBootSpec(Section):
    """What a node does when it is first switched on."""

    cloud_init: bool = Field(True, description="cloud-init, with the data sources NoCloud and ConfigDrive")
    converge: bool = Field(False, description="the node converges itself before it serves (pyinfra @local)")
    network: Literal["dhcp", "none"] = Field("dhcp", description="every wired interface by DHCP, or left alone")
