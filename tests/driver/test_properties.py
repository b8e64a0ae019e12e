"""What no plan may ever be, whatever the host: one repository, one version, open where needed, every reason sourced."""

from __future__ import annotations

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.catalogue.loader import load_driver_packages
from metalserve.driver import DriverRefused, Machine, plan_driver, platform_of
from metalserve.driver.seen import Seen
from metalserve.driver.state import DriverState
from metalserve.driver.steps import steps_to
from metalserve.errors import MetalserveError
from metalserve.hardware.node import PciDevice
from tests.driver.hosts import GPUS, LTS, RULES, of_branch

IDS = sorted(pci for gpu in GPUS.gpus for pci in gpu.pci_ids)
CHIPS = ["GV100GL [Tesla V100]", "GP104GL [Tesla P4]", "GB202GL [RTX PRO 9999]", "TU102 [Something]", "Device", ""]

devices = st.lists(
    st.one_of(
        st.sampled_from(IDS).map(lambda i: (i, "Device")),
        st.tuples(st.from_regex(r"[0-9a-f]{4}", fullmatch=True), st.sampled_from(CHIPS)),
    ),
    max_size=8,
).map(lambda found: tuple(PciDevice(f"0000:{n:02x}:00.0", "0302", "10de", *gpu) for n, gpu in enumerate(found)))
kernels = st.sampled_from(
    ["", "6.8.0-90-generic", "6.14.0-29-generic", "6.8.0-1018-nvidia", "6.1.0-44-amd64", "5.14.0-503.el9.x86_64"]
) | st.text(max_size=20)
machines = st.builds(
    Machine,
    platform=st.builds(
        platform_of, st.sampled_from(load_driver_packages().os_ids), st.sampled_from(["x86_64", "aarch64"])
    ),
    gpus=devices,
    secure_boot=st.booleans(),
    needs_fabric_manager=st.booleans(),
    needs_nvlsm=st.booleans(),
    needs_imex=st.booleans(),
    kernel=kernels,
    key_enrolled=st.booleans(),
)
states = st.builds(
    DriverState,
    holder=st.sampled_from([None, "nouveau", "nova_core"]),
    version=st.sampled_from([None, "550.163.01", LTS.driver.version]),
    open=st.sampled_from([None, True, False]),
    on_disk=st.sampled_from([None, "550.163.01", LTS.driver.version]),
    packages=st.dictionaries(
        st.sampled_from(["nvidia-dkms-550", "libcuda1", "nvidia-driver-cuda", "nvidia-kernel-dkms"]),
        st.just("550.163.01-1"),
    ),
)


@settings(max_examples=400)
@given(
    machine=machines,
    branch=st.sampled_from([row.branch for row in RULES.branches]),
    modules=st.sampled_from(["auto", "open", "proprietary"]),
    source=st.sampled_from(["nvidia", "distro"]),
    toolkit=st.booleans(),
    state=st.none() | states,
)
def test_no_plan_breaks_the_rules(
    machine: Machine, branch: int, modules: str, source: str, toolkit: bool, state: DriverState | None
) -> None:
    release = of_branch(branch)
    try:
        plan = plan_driver(machine, release, modules, GPUS, RULES, source=source, toolkit=toolkit)  # type: ignore[arg-type]
    except DriverRefused as refused:
        assert refused.what and refused.remedy and "\n" not in str(refused)
        return
    # One version: the release's, or the archive's own for all.
    family = [p for p in (*plan.packages, *plan.fabric) if p.name != "nvlsm"]
    assert {p.version for p in family} == {plan.version}
    assert plan.version in (None, release.driver.version)
    # One repository.
    assert (plan.source == "distro") == (plan.version is None) == (not plan.origin.url)
    if plan.source == "distro":
        assert not plan.toolkit and plan.pinning is None
        assert "nvlsm" not in [p.name for p in plan.fabric]
    # Never proprietary for a GPU that needs open, nor open for one that cannot.
    rules = {spec.kernel_modules for g in machine.gpus if (spec := GPUS.by_pci_id(g.device_id)) is not None}
    assert not (plan.modules == "proprietary" and "open-required" in rules)
    assert not (plan.modules == "open" and "proprietary-only" in rules)
    # No suffix past the cliff.
    if plan.source == "nvidia":
        for package, last in [*((p, 580) for p in plan.packages), *((p, 575) for p in plan.fabric)]:
            found = re.search(r"-(\d{3})(-open)?$", package.name)
            assert found is None or int(found.group(1)) == branch <= last
    # Secure Boot: signed by somebody whom the firmware trusts, or refused above.
    if machine.secure_boot:
        assert plan.signed or machine.key_enrolled
    # Fabric manager's family exactly where it is needed.
    assert bool(plan.fabric) == (machine.needs_fabric_manager or machine.needs_imex)
    sources = [reason.source for reason in plan.reasons]
    assert sources and all(sources)
    steps = steps_to(plan, state)
    assert steps == () or any(s.what.startswith(("load the", "reboot", "keep")) for s in steps)
    if state is not None and state.holder is not None:
        assert any(s.what == "reboot" for s in steps)


@given(machines, states)
def test_what_was_seen_comes_back_from_json(machine: Machine, state: DriverState) -> None:
    seen = Seen(machine, state)
    assert Seen.from_dict(json.loads(json.dumps(seen.as_dict()))) == seen


@given(st.text(max_size=30), st.text(max_size=10))
def test_any_system_is_known_or_refused_in_one_line(os_id: str, machine: str) -> None:
    try:
        found = platform_of(os_id, machine)
    except MetalserveError as refused:
        assert "\n" not in str(refused)
    else:
        assert found.machine == machine
