"""Checks of the driver that the next boot loads: DKMS, the module itself, its signature, what it must fit. Pure."""

from __future__ import annotations

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.boot import DkmsEntry
from metalserve.verify.driver import FABRIC_GUIDE, INSTALL_GUIDE
from metalserve.verify.finding import Finding
from metalserve.verify.next_boot_case import HOST, NVIDIA_DKMS, Case, Look, good, unclear, without

_DKMS = "dkms(8): status"
_ENABLED = ("enabled", "enabled-runtime", "static", "alias", "indirect", "generated", "linked")
_NETWORK = ("mlnx", "mlx", "ofa", "iser", "isert", "srp", "knem")


def check_dkms(case: Case) -> list[Look]:
    """Check what DKMS says of the kernel that boots next: the driver, and modules that the running kernel has."""
    check, expected = "next-boot-dkms", f"DKMS has the driver installed for kernel {case.name}"
    entries = case.boot.dkms
    if entries is None and case.boot.dkms_said:
        return [unclear(check, expected, case.boot.dkms_said, "run `dkms status` by hand", _DKMS, unsure=False)]
    ours = [e for e in entries or () if NVIDIA_DKMS.fullmatch(e.module)]
    if not ours and not case.built_here:
        return [without(check, expected, "the driver's modules are not built on this host", _DKMS)]
    return [_driver_in_dkms(case, check, expected, ours), *_others(case, entries or ())]


def _driver_in_dkms(case: Case, check: str, expected: str, ours: list[DkmsEntry]) -> Look:
    here = [e for e in ours if e.kernel == case.chosen.release]
    installed = [e for e in here if e.state.startswith("installed")]
    evidence = "; ".join(e.line for e in here or ours) or case.boot.dkms_said or "dkms status: nothing"
    if installed:
        noted = [e for e in installed if "iff" in e.note or "Missing" in e.note]  # Diff(erences) between built and ...
        if not noted:
            return good(check, expected, installed[0].line, _DKMS)
        observed = f"what lies in /lib/modules is not what DKMS built: {noted[0].note}"
        impact = "another module than DKMS knows of is loaded"
        remedy = f"dkms install --force {noted[0].module}/{noted[0].version} -k {case.name}"
    else:
        impact = "the driver is missing after the next reboot, unless its module came another way"
        remedy = f"dkms autoinstall -k {case.name} (role nvidia_driver does, headers first)"
        broken = [e for e in ours if e.state == "broken"]
        if here:
            observed = f"{here[0].state}, not installed: {here[0].line}"
        elif broken:
            observed = f"the source is gone: {broken[0].line}"
            remedy = "install the driver's DKMS package again (apt-get install --reinstall), then `dkms autoinstall`"
        else:
            observed = f"nothing for kernel {case.name}"
    return Look(Finding(check, "warn", HOST, expected, observed, impact, remedy, _DKMS, evidence))


def _others(case: Case, entries: tuple[DkmsEntry, ...]) -> list[Look]:
    running, wanted = case.boot.running, case.chosen.release
    if wanted is None or wanted == running:
        return []
    has = {e.module for e in entries if e.kernel == wanted and e.state.startswith("installed")}
    lost = [
        e.module
        for e in entries
        if e.kernel == running and e.state.startswith("installed") and e.module not in has
        if not NVIDIA_DKMS.fullmatch(e.module)
    ]
    if not lost:
        return []
    names = ", ".join(dict.fromkeys(lost))
    network = any(name.startswith(_NETWORK) for name in lost)
    return [
        Look(
            Finding(
                "next-boot-dkms-others",
                "warn",
                HOST,
                f"the other modules of DKMS are built for kernel {wanted} too",
                f"built for the running kernel only: {names}",
                "the network cards' own driver is missing then" if network else "they are missing then",
                f"install linux-headers-{wanted}, then `dkms autoinstall -k {wanted}`",
                _DKMS,
            )
        )
    ]


def check_module(case: Case) -> Look:
    """Check that the kernel that boots next has an nvidia module which it can load and which can drive these GPUs."""
    check, expected = "next-boot-module", f"an nvidia module for kernel {case.name}"
    kernel = case.kernel
    if kernel is None:
        return unclear(check, expected, "the kernel is not known", "", INSTALL_GUIDE, unsure=False)
    if not case.boot.modinfo:
        return unclear(check, expected, "the host has no modinfo", "install kmod", INSTALL_GUIDE)
    module = kernel.module
    impact, remedy = "no GPU can be used after the next reboot", "run role nvidia_driver: it builds the module"
    if module is None:
        why = _why_no_module(case)
        if kernel.module_files:
            remedy = f"depmod {kernel.release}"
        observed = f"kernel {kernel.release} has no nvidia module: {why}"
        evidence = f"modinfo -k {kernel.release} nvidia: not found"
        return Look(Finding(check, "warn", HOST, expected, observed, impact, remedy, INSTALL_GUIDE, evidence), observed)
    words = {True: " (open)", False: " (proprietary)", None: ""}[module.open]
    observed = f"nvidia {module.version or 'of unknown version'}{words} at {module.path}"
    wrong = ""
    built_for = module.vermagic.split(" ")[0]
    if built_for and built_for != kernel.release:
        wrong = f"{module.path} was built for kernel {built_for}, and kernel {kernel.release} refuses it"
    elif module.open is not None:
        wrong = _wrong_kind(case, is_open=module.open)
    if wrong:
        evidence = f"vermagic: {module.vermagic}; license: {module.license}"
        return Look(Finding(check, "warn", HOST, expected, wrong, impact, remedy, INSTALL_GUIDE, evidence), wrong)
    return good(check, expected, observed, INSTALL_GUIDE, evidence=f"vermagic: {module.vermagic}")


def _why_no_module(case: Case) -> str:
    kernel = case.kernel
    assert kernel is not None
    if kernel.module_files:
        return f"{kernel.module_files[0].path} is there, but modprobe does not know of it"
    if not case.built_here:
        return f"no package brought one (linux-modules-nvidia-...-{kernel.release})"
    if not kernel.headers:
        return "its headers are missing, so DKMS could not build it"
    if any(e.state == "broken" and NVIDIA_DKMS.fullmatch(e.module) for e in case.boot.dkms or ()):
        return "DKMS has lost the driver's source"
    return "DKMS has not built it"


def _wrong_kind(case: Case, *, is_open: bool) -> str:
    for gpu in case.hardware.pci_gpus:
        spec = load_gpus().by_pci_id(gpu.device_id)  # of a GPU that is not in the catalogue nothing is claimed
        if spec is not None and spec.kernel_modules == "open-required" and not is_open:
            return f"the module on disk is the proprietary one, and GPU {gpu.address} works with the open one only"
        if spec is not None and spec.kernel_modules == "proprietary-only" and is_open:
            return f"the module on disk is the open one, and GPU {gpu.address} works with the proprietary one only"
    return ""


def check_signature(case: Case) -> Look:
    """Check that the kernel will take the module, where it takes signed ones only."""
    check, expected = "next-boot-signature", "a module that the kernel accepts"
    source = f"{INSTALL_GUIDE}: Secure Boot; kernel_lockdown(7)"
    host, boot = case.hardware.host, case.boot
    if case.container:
        return without(check, expected, "the kernel is the machine's beneath", source)
    secure = host.secure_boot if host is not None else None
    why = "Secure Boot is on" if secure else ""
    if not why and boot.lockdown in ("integrity", "confidentiality"):
        why = f"the kernel is locked down ({boot.lockdown})"
    if not why and boot.signatures_enforced:
        why = "the kernel enforces signatures (module.sig_enforce)"
    module = case.kernel.module if case.kernel is not None else None
    if module is None:
        return without(check, expected, "there is no module to be signed", source)
    signer = module.signer or "an unnamed key"
    if not why:
        if secure is None and not module.signature:
            remedy = "mokutil --sb-state"
            return unclear(check, expected, "whether Secure Boot is on is not known", remedy, source, unsure=False)
        return good(check, expected, "unsigned modules are accepted", source)
    impact, remedy = "modprobe fails with `Key was rejected by service`: no GPU can be used", "mokutil --import KEY"
    if not module.signature:
        wrong = f"{why}, and {module.path} is not signed"
        remedy = "take the distribution's signed modules, enrol a key and sign with it, or turn Secure Boot off"
        return Look(Finding(check, "warn", HOST, expected, wrong, impact, remedy, source), wrong)
    if any(module.signer and module.signer in key for key in boot.trusted):
        return good(check, expected, f"{why}; signed by {signer}, whose key the kernel trusts", source)
    ours = "DKMS" in module.signer or "Secure Boot Module Signature" in module.signer
    if boot.own_key is True and ours:
        return good(check, expected, f"{why}; signed by {signer}, and that key is enrolled", source)
    if boot.own_key is False and ours:
        wrong = f"{why}, and the key of {signer} is not enrolled"
        remedy = "mokutil --import its certificate, reboot, confirm at the console (BMC)"
        return Look(Finding(check, "warn", HOST, expected, wrong, impact, remedy, source), wrong)
    unknown = f"{why}; signed by {signer}, and whether the next kernel trusts that key is not known"
    return unclear(check, expected, unknown, "mokutil --list-enrolled; keyctl list %:.builtin_trusted_keys", source)


def check_versions(case: Case) -> list[Look]:
    """Check that the module of the next boot fits user space, fabric manager and release."""
    module = case.kernel.module if case.kernel is not None else None
    if module is None or not module.version:
        return []
    found, user = module.version, case.user_space
    looks = []
    check, expected = "next-boot-user-space", f"user space {found}, as the module of the next boot"
    if user is None:
        looks.append(unclear(check, expected, "its version could not be read", "nvidia-smi", INSTALL_GUIDE))
    elif user != found:
        wrong = f"the next boot loads module {found}, user space is {user}"
        impact = "every program on the GPUs fails: Driver/library version mismatch (NVML 18)"
        remedy = "run role nvidia_driver: it brings module and user space to the release's version"
        looks.append(Look(Finding(check, "warn", HOST, expected, wrong, impact, remedy, INSTALL_GUIDE), wrong))
    else:
        looks.append(good(check, expected, f"user space {user}", INSTALL_GUIDE))
    manager = case.hardware.fabric_manager_version
    if case.hardware.needs_fabric_manager and manager is not None:
        check, expected = "next-boot-fabric-manager", f"fabric manager {found}, as the module of the next boot"
        if manager != found:
            wrong = f"the next boot loads module {found}, fabric manager is {manager} and refuses it"
            impact = "the GPUs cannot reach each other: CUDA fails with error 802"
            remedy = f"install nvidia-fabricmanager {found} (role fabric_manager, after nvidia_driver)"
            looks.append(Look(Finding(check, "warn", HOST, expected, wrong, impact, remedy, FABRIC_GUIDE), wrong))
        else:
            looks.append(good(check, expected, f"fabric manager {manager}", FABRIC_GUIDE))
    wanted = case.release.driver.version
    check, expected, source = "next-boot-release", f"driver {wanted} at the next boot", f"release {case.release.name}"
    if found != wanted:
        loaded = f", {case.hardware.module_version} is loaded now" if case.hardware.module_version else ""
        observed, impact = f"driver {found}{loaded}", "the node is not what its release says"
        remedy = "run role nvidia_driver, or give the host the release that it has"
        looks.append(Look(Finding(check, "warn", HOST, expected, observed, impact, remedy, source)))
    else:
        looks.append(good(check, expected, f"driver {found}", source))
    return looks


def check_services(case: Case) -> list[Look]:
    """Check that what the GPUs need is started at boot, not only running now."""
    looks = []
    wanted = [("nvidia-persistenced.service", False)] if case.persistence else []
    if case.hardware.needs_fabric_manager:
        wanted.append(("nvidia-fabricmanager.service", True))
    for unit, vital in wanted:
        state = case.boot.enabled.get(unit)
        check, expected, source = "next-boot-services", f"{unit} starts at boot", f"systemctl is-enabled {unit}"
        if state is None or state == "not-found":
            continue  # what is not installed is other checks' business
        if state in _ENABLED:
            looks.append(good(check, expected, state, source))
            continue
        wrong = f"{unit} is {state}: it does not start at boot"
        impact = "CUDA fails with error 802 after the next reboot" if vital else "the driver unloads between programs"
        found = Finding(check, "warn", HOST, expected, wrong, impact, f"systemctl enable {unit}", source)
        looks.append(Look(found, wrong if vital else ""))
    return looks
