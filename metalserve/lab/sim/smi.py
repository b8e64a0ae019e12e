"""The simulated nvidia-smi: the driver's life cycle, then the command asked for."""

from __future__ import annotations

import os
import time

from . import smi_apps, smi_q, smi_query, smi_topo
from .state import RESET_CURES, Lab, cuda_version
from .view import Gpu, forget_fabric, gpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Out = Callable[[str], None]

NO_LIBRARY = (
    "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display "
    "Driver is properly installed and present in your system.\n"
    "Please also try adding directory that contains libnvidia-ml.so to your system PATH."
)
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
    "NVIDIA driver is installed and running.\n"
)


def main(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """Run `nvidia-smi ARGS`; returns the exit status (NVML's return code where the real tool uses it)."""
    tool = os.environ.get("METALSERVE_LAB_TOOL_VERSION") or lab.stand_in("nvidia-smi") or ""
    if args[:1] in (["-h"], ["--help"]):
        out(f"NVIDIA System Management Interface -- v{tool}\n\nSimulated in the metalserve lab.")
        return 0
    library = lab.stand_in("libnvidia-ml1")
    if library is None:
        out(NO_LIBRARY)
        return 12
    module = lab.module_version()
    if module is None:
        out(NO_DRIVER)
        return 9
    if module != library:
        out("Failed to initialize NVML: Driver/library version mismatch")
        out(f"NVML library version: {'.'.join(library.split('.')[:2])}")
        return 18
    if args[:1] == ["--version"]:
        out(f"NVIDIA-SMI version  : {tool}\nNVML version        : {'.'.join(library.split('.')[:2])}")
        out(f"DRIVER version      : {module}\nCUDA Version        : {cuda_version(module)}")
        return 0
    found = gpus(lab)
    if not found:
        out("No devices were found")
        return 6
    for gpu in found:
        if gpu.lost:
            # The other GPUs go on answering, and the exit status stays 0 (captured: gpu1-lost-table-indices-0-2-3).
            err(f"Unable to determine the device handle for GPU{gpu.index}: {gpu.slot['bus']}: Unknown Error")
    answering = [gpu for gpu in found if not gpu.lost]
    if not answering:
        out("No devices were found")
        return 6
    return _dispatch(lab, args, answering, out, err)


def _dispatch(lab: Lab, args: list[str], found: list[Gpu], out: Out, err: Out) -> int:
    options, rest = _options(args)
    if "unknown" in options:
        out(f"Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n\n{options['unknown']}")
        return 2
    chosen = _select(found, options.get("-i"))
    if chosen is None:
        out("No devices were found")
        return 6
    persistence = lab.daemon("persistenced") is not None or bool(lab.read("state/boot/pm.json", False))
    if rest[:1] == ["topo"]:
        return smi_topo.topo(lab, found, rest[1:], out)
    if rest[:1] == ["nvlink"]:
        return smi_topo.nvlink(chosen, rest[1:], out)
    if "-L" in options:
        for gpu in chosen:
            out(f"GPU {gpu.index}: {gpu.model['name']} (UUID: {gpu.uuid})")
        return 0
    if "-pm" in options:
        return _persistence(lab, chosen, options["-pm"], out)
    if "-r" in options:
        return _reset(lab, chosen, out)
    if "--query-gpu" in options:
        form = options.get("--format", "")
        if not form.startswith("csv"):
            out('"--format=" switch is missing.')
            return 2
        return smi_query.query(
            options["--query-gpu"].split(","),
            chosen,
            lab,
            header="noheader" not in form,
            units="nounits" not in form,
            persistence=persistence,
            out=out,
        )
    if "--query-compute-apps" in options:
        if "noheader" not in options.get("--format", ""):
            out(options["--query-compute-apps"].replace(",", ", "))
        for line in smi_apps.rows(options["--query-compute-apps"].split(","), chosen):
            out(line)
        return 0
    if "-q" in options:
        return smi_q.query(
            lab,
            chosen,
            xml="-x" in options,
            sections=[name.strip().upper() for name in options.get("-d", "").split(",") if name],
            total=len(found),
            persistence=persistence,
            out=out,
        )
    if rest:
        out(f"Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n\n{rest[0]}")
        return 2
    _table(lab, chosen, persistence, out)
    return 0


FLAGS = {"-L": "-L", "--list-gpus": "-L", "-q": "-q", "--query": "-q", "-x": "-x", "--xml-format": "-x"}
RESET = {"-r": "-r", "--gpu-reset": "-r"}
VALUES = {
    "-i": "-i",
    "--id": "-i",
    "-d": "-d",
    "--display": "-d",
    "-pm": "-pm",
    "--persistence-mode": "-pm",
    "--query-gpu": "--query-gpu",
    "--query-compute-apps": "--query-compute-apps",
    "--format": "--format",
    "-f": "-f",
    "-l": "-l",
}


def _options(args: list[str]) -> tuple[dict[str, str], list[str]]:
    """Split the arguments into known options and the rest (a subcommand with its own)."""
    options: dict[str, str] = {}
    rest: list[str] = []
    words = list(args)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word in FLAGS or word in RESET:
            options[FLAGS.get(word) or RESET[word]] = ""
        elif name in VALUES and (equals or words):
            options[VALUES[name]] = value if equals else words.pop(0)
        elif word.startswith("-") and rest[:1] not in (["topo"], ["nvlink"]):
            options["unknown"] = word
        else:
            rest.append(word)
    return options, rest


def _select(found: list[Gpu], wanted: str | None) -> list[Gpu] | None:
    if wanted is None:
        return found
    chosen = []
    for word in wanted.split(","):
        key = word.strip().lower()
        match = [
            gpu
            for gpu in found
            if key in (str(gpu.index), gpu.uuid.lower(), gpu.slot["bus"].lower(), gpu.smi_bus.lower())
        ]
        if not match:
            return None
        chosen += match
    return chosen


def _persistence(lab: Lab, chosen: list[Gpu], value: str, out: Out) -> int:
    if os.geteuid() != 0:
        out("Unable to set persistence mode: Insufficient Permissions\nTerminating early due to previous errors.")
        return 4
    lab.write("state/boot/pm.json", value in ("1", "ENABLED"))
    word = "Enabled" if value in ("1", "ENABLED") else "Disabled"
    for gpu in chosen:
        out(f"{word} persistence mode for GPU {gpu.smi_bus}.")
    out("All done.")
    return 0


def _reset(lab: Lab, chosen: list[Gpu], out: Out) -> int:
    if os.geteuid() != 0:
        out("Insufficient Permissions\nTerminating early due to previous errors.")
        return 4
    held = smi_apps.holders()
    busy = [gpu for gpu in chosen if held.get(f"/dev/nvidia{gpu.position}")]
    if lab.profile["fabric"]["manager"] and lab.daemon("fabricmanager"):
        busy = chosen  # FM User Guide: fabric manager is stopped before a reset
    if busy:
        for gpu in busy:
            out(f"Unable to reset GPU {gpu.smi_bus}: In use by another client")
        out(
            f"{len(busy)} device{'s are' if len(busy) > 1 else ' is'} currently being used by one or more other "
            "processes (e.g., Fabric Manager, CUDA application, graphics application such as an X server, or a "
            "monitoring application such as another instance of nvidia-smi). Please first kill all processes using "
            "this device and all compute applications running in the system."
        )
        return 19
    for gpu in chosen:
        before = gpu.recovery_action
        lab.cure(("remap-pending",), gpu.position, sticky_too=True)
        lab.cure(RESET_CURES, gpu.position)
        forget_fabric(lab, [gpu.position])
        if before != "None" and Gpu(lab, gpu.position).recovery_action == "None":
            code = "0x1" if before == "GPU Reset Required" else "0x4"
            words = f"GPU recovery action changed from {code} ({before}) to 0x0 (None)"
            lab.log(f"NVRM: Xid (PCI:{gpu.xid_bus}): 154, {words}", level=4)
        out(f"GPU {gpu.smi_bus} was successfully reset.")
    out("All done.")
    return 0


def _table(lab: Lab, rows: list[Gpu], persistence: bool, out: Out) -> None:
    driver = lab.module_version() or ""
    bar = "+-----------------------------------------+------------------------+----------------------+"
    full = "+" + "-" * 89 + "+"
    out(time.strftime("%a %b %e %H:%M:%S %Y") + "       ")
    out(full)
    out(f"| NVIDIA-SMI {driver:<22} Driver Version: {driver:<14} CUDA Version: {cuda_version(driver):<9}|")
    out(bar)
    out("| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |")
    out("| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |")
    out("|                                         |                        |               MIG M. |")
    out("|=========================================+========================+======================|")
    for gpu in rows:
        model = gpu.model
        name = model["name"] if len(model["name"]) <= 27 else model["name"][:24] + "..."
        ecc = str(smi_query.uncorrectable(gpu, "volatile")) if gpu.ecc else "N/A"
        fan = "  0%" if model["fan"] else "N/A"
        perf = "P0" if model["brand"] == "NVIDIA" else "P8"
        power = f"{model['power']['idle']:.0f}W / {gpu.power_limit:4.0f}W"
        used = f"{0:7d}MiB / {model['memory_mib']:6d}MiB"
        on = "On" if persistence else "Off"
        out(f"|{gpu.index:4d}  {name:<31}{on:<3} |   {gpu.smi_bus} Off | {ecc:>20} |")
        out(f"|{fan:>4} {gpu.temperature:4d}C {perf:>5}{power:>24} | {used:>22} | {'0%      Default':>20} |")
        out(f"| {'':39} | {'':22} | {'Disabled' if model['mig'] else 'N/A':>20} |")
        out(bar)
    out("")
    out(full)
    out("| Processes:" + " " * 78 + "|")
    out("|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |")
    out("|        ID   ID                                                               Usage      |")
    out("|" + "=" * 89 + "|")
    out("|  No running processes found" + " " * 61 + "|")
    out(full)
