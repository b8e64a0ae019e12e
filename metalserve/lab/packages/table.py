"""Stand-in packages as data: names, versions and relations of NVIDIA's repository for Debian 12 and 13.

Names and the version form are those of NVIDIA's repository (driver installation guide; DCGM and container toolkit
documentation; see the sources in `metalserve/catalogue`). Relations are reduced to what decides how apt resolves,
pins, upgrades and refuses: nothing here contains NVIDIA's software.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

DRIVERS = ("580.159.03", "580.178.04", "595.91.07")
"""Driver versions: an older patch and the present one of the long-term branch 580, and the production branch 595."""

TOOLKITS = ("1.17.8", "1.19.1", "1.20.0")
"""Container toolkit versions; 1.17.8 is older than the least safe one (CVE-2026-24260, 1.19.1)."""

LAB_BIN = "/opt/metalserve-lab/bin"


@dataclass(frozen=True)
class File:
    """A file of a package."""

    text: str
    mode: int = 0o644


@dataclass(frozen=True)
class Package:
    """One stand-in package.

    Attributes:
        name: package name.
        version: Debian version.
        summary: first line of the description, after the words that say it is a stand-in.
        upstream: version that the simulated tools report; by default the version without epoch and revision.
        relations: control fields (`Depends`, `Provides`, `Conflicts` ...).
        files: absolute path -> content.
        scripts: maintainer scripts: name -> shell text after `set -e`.
        arch_all: the package is for all architectures.
    """

    name: str
    version: str
    summary: str
    upstream: str = ""
    relations: dict[str, str] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)
    arch_all: bool = False


def tool(name: str, version: str) -> File:
    """A thin executable: the simulated tool, told which version the package is."""
    return File(
        "#!/bin/sh\n# STAND-IN for the metalserve lab: hands over to the simulated tool\n"
        f'METALSERVE_LAB_TOOL_VERSION={version} exec {LAB_BIN}/{name} "$@"\n',
        0o755,
    )


def unit(text: str) -> File:
    """A systemd unit."""
    return File(text)


_ENABLE = (
    'if [ "$1" = configure ]; then\n'
    "  deb-systemd-helper unmask {unit} >/dev/null || true\n"
    "  if deb-systemd-helper --quiet was-enabled {unit}; then\n"
    "    deb-systemd-helper enable {unit} >/dev/null || true\n"
    "  fi\n"
    "fi\n"
)
_RELOAD = "if [ -d /run/systemd/system ]; then systemctl --system daemon-reload >/dev/null || true; fi\n"
_STOP = (
    'if [ -d /run/systemd/system ] && [ "$1" = remove ]; then deb-systemd-invoke stop {unit} >/dev/null || true; fi\n'
)


def service(name: str, *, enable: bool) -> dict[str, str]:
    """Maintainer scripts of a package with a unit, as debhelper writes them."""
    after = (_ENABLE.format(unit=name) if enable else "") + _RELOAD
    if enable:
        # Started only on a loaded driver: without one it would fail five times and count as failed from then on.
        after += (
            "if [ -d /run/systemd/system ] && [ -e /proc/driver/nvidia/version ]; then\n"
            f"  deb-systemd-invoke start {name} >/dev/null 2>&1 || true\nfi\n"
        )
    return {"postinst": after, "prerm": _STOP.format(unit=name), "postrm": _RELOAD}


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
        "postinst": "".join(_ENABLE.format(unit=name) for name in both)
        + _RELOAD
        + "if [ -d /run/systemd/system ]; then\n"
        + "".join(f"  deb-systemd-invoke start {name} >/dev/null 2>&1 || true\n" for name in both)
        + "fi\n",
        "prerm": "".join(_STOP.format(unit=name) for name in both),
        "postrm": _RELOAD,
    }


def other_packages(kernel_release: str) -> Iterator[Package]:
    """What is not tied to a driver version.

    Args:
        kernel_release: `uname -r` of the machine, which lab hosts run on: its headers package is a stand-in too.
    """
    yield Package(
        "dkms",
        "3.2.2-1~metalserve1",
        "dynamic kernel module support; knows only the stand-in nvidia module",
        relations={"Depends": "kmod"},
        files={
            "/usr/sbin/dkms": File(DKMS, 0o755),
            "/usr/lib/dkms/common.postinst": File(DKMS_POSTINST, 0o755),
        },
        arch_all=True,
    )
    yield Package(
        f"linux-headers-{kernel_release}",
        "1-1~metalserve1",
        f"kernel headers of {kernel_release}; an empty directory that the stand-in dkms looks for",
        files={f"/usr/src/linux-headers-{kernel_release}/STAND-IN": File("STAND-IN for the metalserve lab\n")},
        scripts={
            "postinst": f"mkdir -p /lib/modules/{kernel_release}\n"
            f"ln -sfn /usr/src/linux-headers-{kernel_release} /lib/modules/{kernel_release}/build\n"
            "if command -v dkms >/dev/null; then dkms autoinstall || true; fi\n",
            "prerm": f"rm -f /lib/modules/{kernel_release}/build\n",
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


def all_packages(kernel_release: str) -> list[Package]:
    """Every package of the lab's repository."""
    found = [package for version in DRIVERS for package in driver_packages(version)]
    found += pinning_packages()
    found += [package for version in TOOLKITS for package in toolkit_packages(version)]
    found += other_packages(kernel_release)
    return found


UBUNTU_NAMES: dict[str, dict[str, str]] = {
    "580": {
        "libcuda1": "libnvidia-compute-580",
        "nvidia-kernel-open-dkms": "nvidia-dkms-580-open",
        "nvidia-kernel-dkms": "nvidia-dkms-580",
        "nvidia-smi": "nvidia-utils-580",
        "nvidia-open": "nvidia-open-580",
        "cuda-drivers": "cuda-drivers-580",
    },
    "595": {
        "libcuda1": "libnvidia-compute",
        "nvidia-kernel-open-dkms": "nvidia-dkms-open",
        "nvidia-kernel-dkms": "nvidia-dkms",
        "nvidia-smi": "nvidia-utils",
        "nvidia-open": "nvidia-open",
        "cuda-drivers": "cuda-drivers",
    },
}
"""Debian name -> name in NVIDIA's repository for Ubuntu, by branch: suffixed up to 580, plain from 590 on."""


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

DKMS = """\
#!/bin/sh
# STAND-IN for the metalserve lab: the part of dkms that the driver packages use, for the module nvidia only.
# "Building" writes a text file that the lab's modinfo and modprobe read.
set -eu
tree=/var/lib/dkms
module= version= kernel= all=
command=${1:-}
[ $# -gt 0 ] && shift
while [ $# -gt 0 ]; do
  case $1 in
  -m) module=$2; shift ;;
  -v) version=$2; shift ;;
  -k) kernel=$2; shift ;;
  --all) all=1 ;;
  */*) module=${1%%/*}; version=${1#*/} ;;
  esac
  shift
done
: "${kernel:=$(uname -r)}"
arch=$(uname -m)

build() { # module version kernel
  conf=/usr/src/$1-$2/dkms.conf
  [ -f "$conf" ] || { echo "Error! Could not locate dkms.conf file." >&2; exit 4; }
  if [ ! -e "/lib/modules/$3/build" ]; then
    echo "Error! Your kernel headers for kernel $3 cannot be found at" \\
      "/lib/modules/$3/build or /lib/modules/$3/source." >&2
    echo "Please install the linux-headers-$3 package or use the --kernelsourcedir option to tell DKMS" \\
      "where it's located." >&2
    return 21
  fi
  METALSERVE_FLAVOUR= METALSERVE_LICENSE=
  . "$conf"
  place=/lib/modules/$3/updates/dkms
  mkdir -p "$place" "$tree/$1/$2/$3/$arch"
  for name in nvidia nvidia-uvm nvidia-modeset nvidia-drm nvidia-peermem; do
    {
      echo "STAND-IN for the metalserve lab, not a kernel module"
      echo "name: $(echo $name | tr - _)"
      echo "version: $2"
      echo "flavour: $METALSERVE_FLAVOUR"
      echo "license: $METALSERVE_LICENSE"
      echo "vermagic: $3 SMP preempt mod_unload"
    } >"$place/$name.ko.new"
    mv "$place/$name.ko.new" "$place/$name.ko"
  done
  echo "$1/$2, $3, $arch: installed (stand-in)"
}

status() {
  for directory in "$tree"/*/*; do
    [ -d "$directory" ] || continue
    name=${directory#"$tree"/}
    found=
    for built in "$directory"/*/*; do
      [ -d "$built" ] || continue
      found=1
      place=${built#"$directory"/}
      echo "$name, ${place%%/*}, ${place#*/}: installed"
    done
    [ -n "$found" ] || echo "$name: added"
  done
}

case $command in
add) mkdir -p "$tree/$module/$version" ;;
build) [ -d "/usr/src/$module-$version" ] ;;
install) mkdir -p "$tree/$module/$version"; build "$module" "$version" "$kernel" ;;
remove)
  [ -d "$tree/$module/$version" ] || exit 0
  for built in "$tree/$module/$version"/*/; do
    [ -d "$built" ] && rm -f "/lib/modules/$(basename "$built")"/updates/dkms/nvidia*.ko
  done
  rm -rf "${tree:?}/$module/$version" ;;
autoinstall)
  for directory in "$tree"/*/*; do
    [ -d "$directory" ] || continue
    name=${directory#"$tree"/}
    [ -d "$directory/$kernel" ] || build "${name%%/*}" "${name#*/}" "$kernel"
  done ;;
status) status ;;
--version) echo "dkms-3.2.2 (STAND-IN for the metalserve lab)" ;;
*) echo "dkms $command: not simulated in the metalserve lab" >&2; exit 2 ;;
esac
"""

DKMS_POSTINST = """\
#!/bin/sh
# STAND-IN for the metalserve lab: what dkms does when a package with a module is configured.
set -eu
dkms add -m "$1" -v "$2"
kernel=$(uname -r)
if [ ! -e "/lib/modules/$kernel/build" ]; then
  echo "Module build for kernel $kernel was skipped since the" \\
    "kernel headers for this kernel do not seem to be installed." >&2
  exit 0
fi
dkms install -m "$1" -v "$2" -k "$kernel"
"""
