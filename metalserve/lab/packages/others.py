"""Container toolkit, DCGM, CUDA toolkit, nvlsm, and what a driver is built with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from metalserve.lab.packages.model import ENABLE, RELOAD, STOP, File, Package, service, tool, unit

TOOLKITS = ("1.17.8", "1.19.1", "1.20.0")
"""Container toolkit versions; 1.17.8 is older than the least safe one (CVE-2026-24260, 1.19.1)."""

_CDI_REFRESH = """\
[Unit]
Description=Refresh NVIDIA CDI specification file (stand-in of the metalserve lab)
ConditionPathExists=/usr/bin/nvidia-smi

[Service]
Type=oneshot
ExecCondition=/bin/sh -c 'test -e /proc/driver/nvidia/version'
EnvironmentFile=-/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env
ExecStart=/usr/bin/nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml

[Install]
WantedBy=multi-user.target
"""

_CDI_REFRESH_PATH = """\
[Unit]
Description=Trigger CDI refresh on NVIDIA driver install and uninstall (stand-in of the metalserve lab)

[Path]
PathChanged=/lib/modules/%v/modules.dep
PathChanged=/lib/modules/%v/updates/dkms

[Install]
WantedBy=multi-user.target
"""


def toolkit_packages(version: str) -> Iterator[Package]:
    """The container toolkit of one version: four packages that must agree."""
    debian, same = f"{version}-1", f"(= {version}-1)"
    yield Package("libnvidia-container1", debian, "NVIDIA container runtime library")
    yield Package(
        "libnvidia-container-tools",
        debian,
        "NVIDIA container runtime library, command-line tools",
        relations={"Depends": f"libnvidia-container1 {same}"},
        files={"/usr/bin/nvidia-container-cli": tool("nvidia-container-cli", version)},
    )
    refresh = tuple(int(part) for part in version.split(".")) >= (1, 18, 0)
    files = {
        "/usr/bin/nvidia-ctk": tool("nvidia-ctk", version),
        "/usr/bin/nvidia-container-runtime": tool("nvidia-container-runtime", version),
        "/usr/bin/nvidia-cdi-hook": File("#!/bin/sh\n# STAND-IN for the metalserve lab\nexit 0\n", 0o755),
    }
    if refresh:
        files["/usr/lib/systemd/system/nvidia-cdi-refresh.service"] = unit(_CDI_REFRESH)
        files["/usr/lib/systemd/system/nvidia-cdi-refresh.path"] = unit(_CDI_REFRESH_PATH)
    yield Package(
        "nvidia-container-toolkit-base",
        debian,
        "NVIDIA container toolkit, base",
        relations={"Depends": "init-system-helpers"} if refresh else {},
        files=files,
        scripts=_cdi_scripts() if refresh else {},
    )
    yield Package(
        "nvidia-container-toolkit",
        debian,
        "NVIDIA container toolkit",
        relations={
            "Depends": f"nvidia-container-toolkit-base {same}, libnvidia-container-tools {same}",
        },
        files={"/usr/bin/nvidia-container-runtime-hook": tool("nvidia-container-runtime-hook", version)},
    )


def _cdi_scripts() -> dict[str, str]:
    both = "nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service"
    return {
        "postinst": "".join(ENABLE.format(unit=name) for name in both)
        + RELOAD
        + "if [ -d /run/systemd/system ]; then\n"
        + "".join(f"  deb-systemd-invoke start {name} >/dev/null 2>&1 || true\n" for name in both)
        + "fi\n",
        "prerm": "".join(STOP.format(unit=name) for name in both),
        "postrm": RELOAD,
    }


def other_packages() -> Iterator[Package]:
    """What is not tied to a driver version."""
    yield Package(
        "dkms",
        "3.2.2-1~metalserve1",
        "dynamic kernel module support; knows only the stand-in nvidia module",
        relations={"Depends": "kmod"},
        files={
            "/usr/sbin/dkms": _script("dkms.sh"),
            "/usr/lib/dkms/common.postinst": _script("dkms-postinst.sh"),
            "/etc/kernel/postinst.d/dkms": _script("dkms-kernel.sh"),
        },
        arch_all=True,
    )
    yield Package(
        "nvlsm",
        "2025.10.14-1",
        "NVLink subnet manager",
        files={"/opt/nvidia/nvlsm/sbin/nvlsm": File("#!/bin/sh\n# STAND-IN for the metalserve lab\nexit 0\n", 0o755)},
    )
    for name, summary, needs in (
        ("datacenter-gpu-manager-4-core", "NVIDIA DCGM, core", ""),
        ("datacenter-gpu-manager-4-cuda12", "NVIDIA DCGM, CUDA 12 parts", "datacenter-gpu-manager-4-core"),
        ("datacenter-gpu-manager-4-cuda13", "NVIDIA DCGM, CUDA 13 parts", "datacenter-gpu-manager-4-core"),
    ):
        core = not needs
        yield Package(
            name,
            "1:4.6.0-1",
            summary,
            relations={"Depends": f"{needs} (= 1:4.6.0-1)"} if needs else {"Conflicts": "datacenter-gpu-manager"},
            files={"/usr/bin/dcgmi": tool("dcgmi", "4.6.0")} if core else {},
        )
    yield exporter_package()
    for release, version in (("12-9", "12.9.1"), ("13-0", "13.0.2"), ("13-2", "13.2.2")):
        directory = f"/usr/local/cuda-{release.replace('-', '.')}"
        manifest = {"cuda": {"name": "STAND-IN CUDA SDK", "version": version}}
        yield Package(
            f"cuda-toolkit-{release}",
            f"{version}-1",
            f"CUDA toolkit {release.replace('-', '.')}",
            files={f"{directory}/version.json": File(json.dumps(manifest) + "\n")},
            scripts={
                "postinst": f"update-alternatives --install /usr/local/cuda cuda {directory} "
                f"{release.replace('-', '')}\n",
                "prerm": f"update-alternatives --remove cuda {directory} || true\n",
            },
        )


_EXPORTER = """\
[Unit]
Description=NVIDIA DCGM-exporter service (stand-in of the metalserve lab)
Wants=nvidia-dcgm.service
After=nvidia-dcgm.service

[Service]
User=root
StandardOutput=append:/var/dcgm-exporter.log
StandardError=append:/var/dcgm-exporter.log
ExecStart=/usr/bin/dcgm-exporter -f /etc/dcgm-exporter/default-counters.csv
Restart=on-abort

[Install]
WantedBy=multi-user.target
"""


def exporter_package() -> Package:
    """The DCGM exporter: its unit as the real package has it, and like there not enabled by installing it."""
    counters = "DCGM_FI_DEV_GPU_TEMP, gauge, GPU temperature (in C).\n"
    return Package(
        "datacenter-gpu-manager-exporter",
        "4.8.3-1",
        "NVIDIA DCGM exporter",
        relations={"Depends": "datacenter-gpu-manager-4-core"},
        files={
            "/usr/bin/dcgm-exporter": tool("dcgm-exporter", "4.8.3"),
            "/usr/lib/systemd/system/nvidia-dcgm-exporter.service": unit(_EXPORTER),
            "/etc/dcgm-exporter/default-counters.csv": File(counters),
        },
        scripts=service("nvidia-dcgm-exporter.service", enable=False),
    )


def _script(name: str) -> File:
    """A script that lies beside this module."""
    return File((Path(__file__).resolve().parent / name).read_text(encoding="utf-8"), 0o755)
