"""Role nvidia_driver: what it wants of hosts in every state between bare and done."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metalserve.desired.diff import difference
from metalserve.desired.model import Action, Desired, NotYetKnown, Reboot
from metalserve.desired.node import Node
from metalserve.driver.proven import PROVEN
from metalserve.driver.repository import key_path, source_path
from metalserve.errors import MetalserveError
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.hardware.section import Section
from metalserve.verify.finding import worst
from roles.base.desired import NOUVEAU, SUPPORTED
from roles.nvidia_driver import desired as role
from tests.driver.hosts import of_branch
from tests.roles.helpers import BOOTED, a_file, after, changes, make_node, unit, with_hardware

VERSION = "580.178.04"
DRIVER = {
    "nvidia-driver-pinning-580.178.04": "580.178.04-1",
    "nvidia-kernel-open-dkms": "580.178.04-1",
    "nvidia-driver-cuda": "580.178.04-1",
    "nvidia-persistenced": "580.178.04-1",
    "linux-headers-6.1.0-44-amd64": "6.1.164-1",
    "linux-headers-amd64": "6.1.164-1",
}


def working(hardware: NodeHardware) -> NodeHardware:
    """The hardware with the driver of the release loaded."""
    return replace(
        hardware,
        gpus=tuple(Gpu(i) for i in range(len(hardware.pci_gpus))),
        smi_state="ok",
        driver_version=VERSION,
        module_version=VERSION,
        module_on_disk=VERSION,
        module_open=True,
    )


def installed(**more: object) -> Node:
    """A host with the packages, the module built but none loaded."""
    return make_node(
        packages=DRIVER,
        sections={"driver-disk": f"{VERSION}\n"},
        **more,  # type: ignore[arg-type]
    )


STAGES = (role.repository, role.pin, role.install, role.build, role.reboot, role.activate)


def everything(node: Node) -> Desired:
    """What all stages together want."""
    wish = Desired()
    for stage in STAGES:
        wish += stage(node)
    return wish


@pytest.mark.parametrize("os_id", ["debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04"])
def test_a_bare_host_is_told_everything_before_any_driver_is_there(os_id: str) -> None:
    kernel = "6.8.0-90-generic" if os_id.startswith("ubuntu") else "6.1.0-44-amd64"
    node = make_node(os_id=os_id, facts={"kernel": kernel})
    told = "\n".join(changes(everything(node), node))
    assert f"key {key_path('nvidia')}" in told
    assert f"file {source_path('nvidia')}: absent -> written" in told
    assert f"package nvidia-driver-pinning-{VERSION}: absent -> installed" in told
    assert f"absent -> {VERSION}" in told
    assert f"package linux-headers-{kernel}: absent" in told
    assert "module nvidia-uvm: not loaded -> loaded" in told
    assert "unit nvidia-persistenced.service" in told
    assert "reboot" not in told


def test_a_second_run_wants_nothing() -> None:
    node = installed()
    done = after(node, everything(node))
    assert changes(everything(done), done) == []


def test_a_file_changed_by_hand_is_brought_back() -> None:
    node = installed()
    done = after(node, everything(node))
    path = source_path("nvidia")
    spoilt = replace(done.observed, files={**done.observed.files, path: a_file(path, "deb ...")})
    assert changes(everything(done.with_observation(spoilt)), done.with_observation(spoilt)) == [
        f"file {path}: content"
    ]


def test_the_list_of_cuda_keyring_goes_and_no_other() -> None:
    theirs = "/etc/apt/sources.list.d/cuda-debian12-x86_64.list"
    own = "/etc/apt/sources.list.d/cuda-mirror.list"
    node = make_node(files={theirs: "deb ...", own: "deb ..."})
    told = changes(role.repository(node), node)
    assert f"file {theirs}: -> removed" in told
    assert not any(own in line for line in told)


def test_the_pins_of_other_versions_go_with_their_packages() -> None:
    pins = [f"{role.PREFERENCES}{role.PIN}{v}" for v in ("580.178.04.pref", "595.91.07.pref", "595")]
    node = make_node(
        packages={"nvidia-driver-pinning-580.178.04": "580.178.04-1"},
        files=dict.fromkeys([*pins, f"{role.PREFERENCES}own.pref"], "x"),
    )
    found = difference(role.pin(node), node.observed)
    assert [c.summary for c in found] == ["purge the pins of other driver versions"]
    action = found[0].resource
    assert isinstance(action, Action)
    assert "dpkg --purge nvidia-driver-pinning-595.91.07 " in action.script
    assert "rm -f /etc/apt/preferences.d/nvidia-driver-pinning-595" in action.script
    assert "580.178.04" not in action.script and "own.pref" not in action.script


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (make_node(gpus=()), "no NVIDIA GPU on the PCI bus"),
        (make_node(os_id="debian-11"), "is not supported"),
        (make_node(facts={"secure_boot": "1"}), "Secure Boot"),
        (make_node(gpus=("2330", "ffff")), "not in the catalogue"),
        (make_node(gpus=("2901",), settings={"driver": {"modules": "proprietary"}}), "open kernel modules only"),
    ],
)
def test_hosts_that_no_driver_can_serve_are_refused_untouched(node: Node, words: str) -> None:
    with pytest.raises(MetalserveError, match=words) as error:
        everything(node)
    assert not isinstance(error.value, NotYetKnown)
    assert error.value.remedy


@pytest.mark.parametrize("kernel", ["6.18.44-own", "6.1.0-44-amd64"])
def test_headers_of_a_kernel_from_elsewhere_are_looked_for(kernel: str) -> None:
    virt = "systemd-nspawn" if kernel.endswith("-amd64") else "none"
    node = make_node(facts={"kernel": kernel, "virt": virt, "secure_boot": "0" if virt == "none" else "1"})
    assert changes(role.install(node), node)[0] == f"install headers of kernel {kernel}"
    assert not any("headers" in p.name for p in role.install(node).packages)
    tree = f"/lib/modules/{kernel}/build"
    node = node.with_observation(replace(node.observed, files={tree: a_file(tree)}))
    assert not any("headers" in line for line in changes(role.install(node), node))


@pytest.mark.parametrize(
    ("modules", "sections", "reason"),
    [
        (("nouveau",), {}, "nouveau is loaded"),
        (("nova_core",), {}, "nova_core is loaded"),
        ((), {"driver-module": "570.211.01"}, "570.211.01 is loaded, the release has 580.178.04"),
        ((), {"driver-module": VERSION}, None),
        ((), {}, None),
    ],
)
def test_reboot_only_where_the_kernel_needs_one(
    modules: tuple[str, ...], sections: dict[str, str], reason: str | None
) -> None:
    loaded = sections.get("driver-module")
    node = installed(
        modules=modules,
        hardware=lambda h: replace(h, module_version=loaded, module_open=True if loaded else None),
    )
    found = [c.resource for c in difference(role.reboot(node), node.observed)]
    if reason is None:
        assert found == []
    else:
        assert len(found) == 1 and isinstance(found[0], Reboot) and reason in found[0].reason


def test_another_kind_of_module_takes_a_reboot_too() -> None:
    node = installed(hardware=lambda h: replace(working(h), module_open=False))
    assert "proprietary kernel module is loaded, open wanted" in (role.reboot_reason(node) or "")


def test_no_reboot_into_the_same_wrong_module_but_words_about_it() -> None:
    node = installed(hardware=lambda h: replace(working(h), module_version="570.1", module_on_disk="570.1"))
    assert role.reboot_reason(node) is None
    with pytest.raises(NotYetKnown, match=r"would load 570\.1"):
        role.activate(node)


def test_a_forbidden_reboot_stops_the_host_only_after_what_can_be_done() -> None:
    node = installed(modules=("nouveau",), settings={"driver": {"reboot": "never"}})
    with pytest.raises(NotYetKnown, match=r"nouveau is loaded.*driver\.reboot is 'never'"):
        role.reboot(node)


@pytest.mark.parametrize(
    ("tool", "image_age", "rebuilt"),
    [(True, -10, True), (True, 10, False), (False, -10, False)],
)
def test_initramfs_is_rebuilt_where_it_is_older_than_the_blacklist(tool: bool, image_age: float, rebuilt: bool) -> None:
    image = "/boot/initrd.img-6.1.0-44-amd64"
    files = {NOUVEAU: a_file(NOUVEAU, mtime=BOOTED), image: a_file(image, mtime=BOOTED + image_age)}
    if tool:
        files[role.INITRAMFS_TOOL] = a_file(role.INITRAMFS_TOOL)
    node = installed(files=files)
    assert changes(role.reboot(node), node) == (["rebuild the initramfs without nouveau"] if rebuilt else [])


def test_a_missing_module_is_built_only_when_the_packages_are_there() -> None:
    unbuilt = make_node(packages=DRIVER, sections={"driver-disk": Section("modinfo: ERROR: not found", 1)})
    assert changes(role.build(unbuilt), unbuilt) == ["build the nvidia module for kernel 6.1.0-44-amd64"]
    bare = make_node()
    assert changes(role.build(bare), bare) == []


def test_persistence_can_be_left_out() -> None:
    node = installed(settings={"driver": {"persistence": False}})
    assert role.activate(node).units == ()


def test_proof_of_a_working_driver() -> None:
    node = with_hardware(installed(units={role.PERSISTENCE: unit(role.PERSISTENCE)}), working)
    assert worst(role.findings(node)) == "ok"


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        ({"smi_state": "no-driver", "smi_message": "NVIDIA-SMI has failed"}, "driver-answers", "no-driver: NVIDIA-SMI"),
        ({"smi_state": "mismatch", "smi_message": ""}, "driver-answers", "mismatch"),
        ({"module_version": "570.211.01"}, "driver-loaded", "570.211.01"),
        ({"driver_version": "570.211.01"}, "driver-user-space", "570.211.01"),
    ],
)
def test_proof_fails_in_words(change: dict[str, str], check: str, words: str) -> None:
    node = with_hardware(installed(), lambda h: replace(working(h), **change))  # type: ignore[arg-type]
    failed = [f for f in role.findings(node) if f.status == "fail"]
    assert [f.check for f in failed] == [check]
    assert words in failed[0].observed and failed[0].remedy


SIGNED = {"arch": "x86_64", "secure_boot": "1", "kernel": "6.8.0-90-generic"}


@pytest.mark.parametrize(
    ("node", "words", "remedy"),
    [
        ({"os_id": "rocky-9.6"}, "the driver of rocky-9 is planned, but the role cannot install it yet", "by hand"),
        ({"os_id": "rhel-10.1"}, "planned, but the role cannot install it yet", "by hand"),
        ({"os_id": "ubuntu-26.04"}, "planned, but the role cannot install it yet", "reinstall"),
        ({"facts": {"arch": "aarch64"}}, "the driver of aarch64 hosts is planned, but", "x86_64"),
        ({"gpus": ["2941"] * 4}, "need IMEX, which is planned, but", "HGX"),
        ({"os_id": "ubuntu-24.04", "facts": SIGNED}, "the driver of Ubuntu's archive is planned, but", "Enroll MOK"),
        ({"facts": {"secure_boot": "1"}}, "Secure Boot is on", "mokutil --import /var/lib/dkms/mok.pub"),
        ({"os_id": "ubuntu-24.04", "settings": {"driver": {"source": "distro"}}}, "Ubuntu's archive is", "'nvidia'"),
        ({"release": of_branch(550)}, "must be held", "newer branch"),
        ({"os_id": "suse-15.6"}, "not supported", "reinstall"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_before_anything_is_touched(
    node: dict[str, object], words: str, remedy: str
) -> None:
    refused = make_node(**node)  # type: ignore[arg-type]
    # The first stage: nothing has been written on the host by then.
    with pytest.raises(MetalserveError, match=words) as error:
        role.repository(refused)
    assert remedy in str(error.value)


def test_a_key_that_the_firmware_knows_lets_dkms_modules_in() -> None:
    node = make_node(facts={"secure_boot": "1"}, sections={"mok-key": "/var/lib/dkms/mok.pub is already enrolled\n"})
    assert role.plan(node).source == "nvidia"
    assert "mokutil --test-key" in role.watch(node.settings, node.release).commands["mok-key"]


def test_what_the_role_knows_is_what_base_knows() -> None:
    assert PROVEN == SUPPORTED


def test_the_archive_s_driver_is_held_and_released_when_nvidia_s_takes_its_place() -> None:
    versions = dict.fromkeys(("nvidia-kernel-dkms", "libcuda1", "nvidia-smi", "nvidia-persistenced"), "535.309.01-0")
    distro = {"driver": {"source": "distro"}, "expect": {"gpu": "l40s"}}
    node = make_node(gpus=["26b9"], settings=distro, packages=versions)
    (hold,) = (a for a in role.install(node).actions if a.name.startswith("hold "))
    assert hold.script == "apt-mark hold nvidia-kernel-dkms libcuda1 nvidia-smi nvidia-persistenced"
    assert not hold.done(node.observed)
    held = replace(node.observed, packages={n: replace(p, status="hi ") for n, p in node.observed.packages.items()})
    assert hold.done(held)
    other = replace(make_node(gpus=["26b9"]), observed=held)
    (release,) = (a for a in role.install(other).actions if "held" in a.name)
    assert release.phase == "early" and "libcuda1" in release.script
    assert release.done(node.observed) and not release.done(held)
    assert role.install(make_node(gpus=["26b9"])).actions == ()
