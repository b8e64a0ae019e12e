"""The driver family: kernel modules, libraries, nvidia-smi, daemons, fabric manager, pinning packages."""

from __future__ import annotations

from collections.abc import Iterator

from metalserve.lab.packages.model import File, Package, service, tool, unit

DRIVERS = ("580.159.03", "580.178.04", "595.71.05", "595.91.07")
"""Driver versions: an older patch and the present one, of the long-term branch 580 and the production branch 595."""

_PERSISTENCED = """\
[Unit]
Description=NVIDIA Persistence Daemon (stand-in of the metalserve lab)
Wants=syslog.target

[Service]
Type=forking
PIDFile=/run/nvidia-persistenced/nvidia-persistenced.pid
Restart=always
ExecStart=/usr/bin/nvidia-persistenced --persistence-mode --verbose
ExecStopPost=/bin/rm -rf /run/nvidia-persistenced

[Install]
WantedBy=multi-user.target
"""

_FABRICMANAGER = """\
[Unit]
Description=NVIDIA fabric manager service (stand-in of the metalserve lab)
After=network-online.target
Requires=network-online.target

[Service]
Type=forking
TimeoutStartSec=240
PIDFile=/run/nvidia-fabricmanager/nv-fabricmanager.pid
ExecStart=/usr/bin/nvidia-fabricmanager-start.sh --mode start \\
  --fm-config-file /usr/share/nvidia/nvswitch/fabricmanager.cfg \\
  --fm-pid-file /run/nvidia-fabricmanager/nv-fabricmanager.pid
ExecStop=/bin/sh -c 'kill -TERM $MAINPID'
LimitCORE=infinity

[Install]
WantedBy=multi-user.target
"""


def driver_packages(version: str) -> Iterator[Package]:
    """The driver family of one version."""
    debian, same = f"{version}-1", f"(= {version}-1)"

    def package(name: str, summary: str, **rest: object) -> Package:
        return Package(name, debian, summary, **rest)  # type: ignore[arg-type]

    for name, summary in (
        ("libnvidia-ml1", "NVIDIA Management Library (NVML) runtime"),
        ("libcuda1", "NVIDIA CUDA driver library"),
        ("libnvidia-ptxjitcompiler1", "NVIDIA PTX JIT compiler library"),
        ("libnvidia-nvvm4", "NVIDIA NVVM compiler library"),
        ("libcudadebugger1", "NVIDIA CUDA debugger library"),
        ("firmware-nvidia-gsp", "NVIDIA GSP firmware"),
        ("nvidia-modprobe", "utility to load NVIDIA kernel modules and create device nodes"),
        ("libnvidia-nscq", "NVSwitch configuration and query library"),
        ("libnvsdm", "NVSwitch device monitoring library"),
    ):
        yield package(name, summary)
    yield package(
        "nvidia-kernel-support",
        "files that the NVIDIA kernel modules need",
        relations={"Depends": f"firmware-nvidia-gsp {same}, nvidia-modprobe {same}"},
        files={
            "/usr/lib/modprobe.d/nvidia.conf": File(
                "# STAND-IN for the metalserve lab\nblacklist nouveau\noptions nouveau modeset=0\n"
                "softdep nvidia post: nvidia-uvm nvidia-drm\n"
            )
        },
    )
    yield from _kernel_packages(version)
    yield package(
        "nvidia-smi",
        "NVIDIA System Management Interface",
        relations={"Depends": f"libnvidia-ml1 {same}"},
        files={"/usr/bin/nvidia-smi": tool("nvidia-smi", version)},
    )
    yield package(
        "nvidia-persistenced",
        "daemon that keeps GPU state between clients",
        relations={"Depends": f"libnvidia-ml1 {same}, init-system-helpers"},
        files={
            "/usr/bin/nvidia-persistenced": tool("nvidia-persistenced", version),
            "/usr/lib/systemd/system/nvidia-persistenced.service": unit(_PERSISTENCED),
        },
        scripts=service("nvidia-persistenced.service", enable=True),
    )
    yield package(
        "nvidia-driver-cuda",
        "NVIDIA driver, compute part",
        relations={
            "Depends": f"libcuda1 {same}, libnvidia-ml1 {same}, libnvidia-ptxjitcompiler1 {same}, "
            f"libnvidia-nvvm4 {same}, libcudadebugger1 {same}, nvidia-smi {same}, nvidia-persistenced {same}, "
            f"nvidia-kernel-support {same}",
            "Recommends": f"nvidia-kernel-open-dkms {same} | nvidia-kernel-dkms {same}",
        },
    )
    yield package(
        "nvidia-driver",
        "NVIDIA driver metapackage",
        relations={"Depends": f"nvidia-driver-cuda {same}, nvidia-kernel-dkms {same} | nvidia-kernel-open-dkms {same}"},
    )
    yield package(
        "nvidia-open",
        "NVIDIA driver with open kernel modules, metapackage",
        relations={"Depends": f"nvidia-driver-cuda {same}, nvidia-kernel-open-dkms {same}"},
    )
    yield package(
        "cuda-drivers",
        "NVIDIA driver with proprietary kernel modules, metapackage",
        relations={"Depends": f"nvidia-driver {same}, nvidia-kernel-dkms {same}"},
    )
    yield package(
        "nvidia-fabricmanager",
        "fabric manager for NVSwitch systems",
        relations={"Depends": "init-system-helpers"},
        files={
            "/usr/bin/nv-fabricmanager": tool("nv-fabricmanager", version),
            "/usr/bin/nvidia-fabricmanager-start.sh": tool("nv-fabricmanager", version),
            "/usr/share/nvidia/nvswitch/fabricmanager.cfg": File(
                "# STAND-IN for the metalserve lab\nLOG_FILE_NAME=/var/log/fabricmanager.log\nFABRIC_MODE=0\n"
                "BIND_INTERFACE_IP=127.0.0.1\nSTARTING_TCP_PORT=16000\n"
            ),
            "/usr/lib/systemd/system/nvidia-fabricmanager.service": unit(_FABRICMANAGER),
        },
        scripts=service("nvidia-fabricmanager.service", enable=False),
    )
    yield package(
        "nvidia-imex",
        "NVIDIA IMEX daemon",
        files={"/etc/nvidia-imex/config.cfg": File("# STAND-IN for the metalserve lab\n")},
    )
    yield package(
        "nvlink5",
        "metapackage for HGX systems with NVLink5 switches",
        relations={
            "Depends": f"libnvidia-nscq {same}, libnvsdm {same}, nvidia-fabricmanager {same}, nvidia-imex {same}, "
            f"nvidia-kernel-open-dkms {same}, libcuda1 {same}, nvlsm"
        },
    )


def _kernel_packages(version: str) -> Iterator[Package]:
    same = f"(= {version}-1)"
    for flavour, name, other in (
        ("open", "nvidia-kernel-open-dkms", "nvidia-kernel-dkms"),
        ("proprietary", "nvidia-kernel-dkms", "nvidia-kernel-open-dkms"),
    ):
        licence = "Dual MIT/GPL" if flavour == "open" else "NVIDIA"
        yield Package(
            name,
            f"{version}-1",
            f"NVIDIA kernel modules, {flavour} flavour, built by DKMS",
            relations={
                "Depends": f"dkms, nvidia-kernel-support {same}",
                "Provides": f"nvidia-kernel-{version}",
                "Conflicts": other,
                "Replaces": other,
            },
            files={
                f"/usr/src/nvidia-{version}/dkms.conf": File(
                    "# STAND-IN for the metalserve lab: there is no source\n"
                    f'PACKAGE_NAME="nvidia"\nPACKAGE_VERSION="{version}"\nAUTOINSTALL="yes"\n'
                    f'METALSERVE_FLAVOUR="{flavour}"\nMETALSERVE_LICENSE="{licence}"\n'
                )
            },
            scripts={
                "postinst": f'if [ "$1" = configure ]; then /usr/lib/dkms/common.postinst nvidia {version}; fi\n',
                "prerm": f"dkms remove -m nvidia -v {version} --all >/dev/null || true\n",
            },
        )


def pinning_packages() -> Iterator[Package]:
    """Packages that hold the driver family at a branch or a version, by an apt preferences file."""
    branches = sorted({version.split(".")[0] for version in DRIVERS})
    family = "*nvidia* libcuda1 libcudadebugger1 libnvsdm cuda-drivers* nvlink5* firmware-nvidia-gsp"
    for wanted in (*branches, *DRIVERS):
        pin = f"{wanted}.*" if wanted in branches else f"{wanted}-*"
        # The priority is above 1000 of no use, at 1000 apt also downgrades: that is how the real ones work.
        yield Package(
            f"nvidia-driver-pinning-{wanted}",
            f"{wanted}-1",
            f"keeps the NVIDIA driver packages at {wanted}",
            relations={"Provides": "nvidia-driver-pinning", "Conflicts": "nvidia-driver-pinning",
                       "Replaces": "nvidia-driver-pinning"},
            files={
                # apt skips files there with another extension than .pref, and `.04` would be one
                f"/etc/apt/preferences.d/nvidia-driver-pinning-{wanted}.pref": File(
                    "Explanation: STAND-IN for the metalserve lab\n"
                    f"Package: {family}\nPin: version {pin}\nPin-Priority: 1000\n"
                )
            },
            arch_all=True,
        )  # fmt: skip
