"""The lab as a whole: up, down, and host by host; each may be repeated, and a crash before is cleaned up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import get_args

from metalserve.errors import MetalserveError
from metalserve.lab import delay as links
from metalserve.lab import distribution, drives, hosts, network, parts, power, rootfs, service
from metalserve.lab.bmc import service as bmcs
from metalserve.lab.fleet import Fleet, RunningFleet, RunningHost, Suite, load_fleet, running_fleet
from metalserve.lab.layout import DEFAULT_ID, LAST_OWN_ID, Layout
from metalserve.lab.operate import wait_until_up
from metalserve.lab.repository import SigningKey, signing_key
from metalserve.lab.system import (
    check_machine,
    exclusive,
    load_modules,
    mounts_below,
    read_json,
    run,
    unmount_below,
    write_json,
    write_text,
)
from metalserve.trees.mirrors import machine_mirrors

Step = Callable[[str], AbstractContextManager[object]]
"""Shows that a piece of work runs: called with its title, entered while it runs."""


def silent(title: str) -> AbstractContextManager[object]:
    """Show nothing."""
    return nullcontext()


def up(layout: Layout, fleet_name: str = "default", *, step: Step = silent) -> RunningFleet:
    """Bring the lab up: what is missing is made, what runs is left alone.

    Raises:
        MetalserveError: the machine lacks something, another fleet is up, or a host does not boot.
    """
    check_machine()
    fleet = load_fleet(fleet_name)
    with exclusive(layout.lock, "up"):
        running = _hosts(layout, fleet)
        _claim(layout, fleet_name, running)
        load_modules()
        key = _keys(layout, running)
        _build(layout, fleet, key, step)
        if not layout.fleet_file.exists():
            _prune(layout, running)
        with step("network and file service"):
            if network.up(layout):
                service.stop(layout)
                bmcs.stop(layout)
                for host in running:
                    power.cut_power(layout, host.name)
            service.start(layout)
            bmcs.start(layout, running)
        with step("NVIDIA's repository (simulated)"):
            nvidia = parts.nvidia_repository(layout, key)
        with step("engine image and model (simulated)"):
            engine = parts.engine(layout)
        value = RunningFleet(
            lab_id=layout.lab_id,
            release=fleet.release,
            service_url=layout.service_url,
            key_fingerprint=key.fingerprint,
            has_nvidia_repository=nvidia,
            image=engine.image,
            image_sha256=engine.image_sha256,
            model=engine.model,
            hosts=running,
        )
        with step(f"{len(running)} hosts"):
            for host in running:
                hosts.create(layout, host, running)
                hosts.start(layout, host)
            wait_until_up(layout, running)
            bmcs.wait(layout, running)
        write_json(layout.fleet_file, value.model_dump())
        return value


def _hosts(layout: Layout, fleet: Fleet) -> list[RunningHost]:
    return [
        RunningHost(
            name=name,
            index=index,
            address=layout.host_address(index),
            profile=host.profile,
            suite=host.suite,
            expect=host.expect,
            template=str(Path(host.template).absolute()) if host.template else None,
        )
        for index, (name, host) in enumerate(fleet.hosts.items())
    ]


def choose_number(layout: Layout) -> Layout:
    """Return the lab with a number that is free, so that a second checkout's lab stands beside the first.

    A number from the environment is kept, and so is that of a lab that is up. The choice is written down.
    """
    if os.environ.get("METALSERVE_LAB_ID") or layout.fleet_file.exists():
        return layout
    for number in (layout.lab_id, *range(DEFAULT_ID, LAST_OWN_ID + 1)):
        candidate = replace(layout, lab_id=number)
        if _other_owner(candidate) is None and network.addresses_in_use(candidate) is None:
            candidate.root.mkdir(parents=True, exist_ok=True)
            write_text(candidate.number_file, f"{number}\n")
            return candidate
    return layout  # all are taken: `up` says so of this one


def _other_owner(layout: Layout) -> str | None:
    owner = read_json(layout.owner_file)
    if owner and owner["root"] != str(layout.root) and (Path(owner["root"]) / "fleet.json").exists():
        return str(owner["root"])
    return None


def _claim(layout: Layout, fleet_name: str, wanted: list[RunningHost]) -> None:
    """Make sure that names and addresses are ours, and clear what a crashed lab has left."""
    other = _other_owner(layout)
    if other is not None:
        raise MetalserveError(
            f"another lab with number {layout.lab_id} is up in {other}",
            where=str(layout.root),
            remedy="take it down, or give this one another number: METALSERVE_LAB_ID=78",
        )
    busy = network.addresses_in_use(layout)
    if busy is not None:
        raise MetalserveError(
            f"this machine already uses {layout.network}.0/24 (device {busy})",
            where="lab network",
            remedy="give the lab another number: METALSERVE_LAB_ID=78",
        )
    if layout.fleet_file.exists():
        before = running_fleet(layout).hosts
        if [(each.name, each.suite, each.profile, each.template) for each in before] != [
            (each.name, each.suite, each.profile, each.template) for each in wanted
        ]:
            raise MetalserveError(
                f"another fleet is up ({', '.join(each.name for each in before)})",
                where=str(layout.root),
                remedy=f"metalserve lab down --keep-cache, then up --fleet {fleet_name}",
            )
    else:
        bmcs.stop(layout)
        _remove_hosts(layout)
        service.stop(layout)
        links.stop(layout)
        network.down(layout)
    layout.root.mkdir(parents=True, exist_ok=True)
    layout.root.chmod(0o755)
    write_json(layout.owner_file, {"root": str(layout.root)})


def _keys(layout: Layout, wanted: list[RunningHost]) -> SigningKey:
    layout.keys.mkdir(parents=True, exist_ok=True)
    if not layout.ssh_key.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "metalserve lab controller", "-f", layout.ssh_key])
    if os.environ.get("SUDO_UID", "").isdigit():
        # who called sudo runs pyinfra as themselves, and the key must be theirs for ssh to take it
        os.chown(layout.ssh_key, int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "-1")))
    lines = [line for host in wanted for line in hosts.known_hosts_lines(layout, host)]
    write_text(layout.known_hosts, "\n".join(lines) + "\n")
    key = signing_key(layout.keys)
    key.publish(layout.www / "keys" / "lab.asc")
    return key


def _build(layout: Layout, fleet: Fleet, key: SigningKey, step: Step) -> None:
    """Make root file systems and the packages they are served; suites side by side."""

    def one(suite: str) -> None:
        mirrors = None
        if not rootfs.base_path(layout, suite).is_dir():
            mirrors = machine_mirrors()
            with step(f"root file system of {suite} (once, about a minute)"):
                rootfs.build_base(layout, suite, mirrors)
        base = rootfs.base_path(layout, suite)
        if not distribution.path(layout, suite, base).is_dir():
            with step(f"packages of {suite} (once)"):
                distribution.fetch(layout, suite, base, mirrors or machine_mirrors())
        extras = []
        for name in fleet.also:
            extras.append(distribution.extra_path(layout, suite, base, name))
            if not extras[-1].is_dir():
                with step(f"packages of {suite} for {name} (once)"):
                    distribution.fetch(layout, suite, base, mirrors or machine_mirrors(), extra=name)
        with step(f"package repository of {suite}"):
            distribution.publish(layout, suite, distribution.path(layout, suite, base), key, also=extras)
            rootfs.build_layer(layout, suite)
        for path in sorted({host.template for host in fleet.hosts.values() if host.suite == suite and host.template}):
            with step(f"template {path}"):
                rootfs.unpack_template(layout, suite, Path(path))

    with ThreadPoolExecutor(max_workers=2) as pool:
        for done in [pool.submit(one, suite) for suite in fleet.suites]:
            done.result()


def _prune(layout: Layout, wanted: Iterable[RunningHost]) -> None:
    """Remove what earlier versions of the lab have left in the cache; what any fleet of today needs stays."""
    keep = []
    for suite in get_args(Suite):
        base = rootfs.base_path(layout, suite)
        keep += [base, rootfs.layer_path(layout, suite), distribution.path(layout, suite, base)]
        keep += [distribution.extra_path(layout, suite, base, name) for name in distribution.EXTRA]
    keep += [rootfs.template_path(layout, host.suite, Path(host.template)) for host in wanted if host.template]
    rootfs.prune(layout, keep)


def reset(layout: Layout, names: Iterable[str], *, step: Step = silent) -> None:
    """Make hosts bare again: power cut, disks new, booted."""
    check_machine()
    fleet = running_fleet(layout)
    chosen = [fleet.host(name) for name in names] or fleet.hosts
    with exclusive(layout.lock, "reset"):
        for suite in sorted({host.suite for host in chosen}):
            rootfs.build_layer(layout, suite)
        with step(f"{len(chosen)} hosts made bare"):
            for host in chosen:
                hosts.remove(layout, host)
                bmcs.forget(layout, host.name)
                hosts.create(layout, host, fleet.hosts)
                hosts.start(layout, host)
            wait_until_up(layout, chosen)


def down(layout: Layout, *, keep_cache: bool = False, step: Step = silent) -> None:
    """Stop everything that the lab started and remove everything that it made."""
    check_machine()
    with exclusive(layout.lock, "down"):
        owner = read_json(layout.owner_file)
        with step("hosts"):
            bmcs.stop(layout)  # first, or one could boot a host again
            _remove_hosts(layout)
        with step("network and files"):
            service.stop(layout)
            links.stop(layout)
            if owner is None or owner["root"] == str(layout.root):
                network.down(layout)
                layout.owner_file.unlink(missing_ok=True)
            unmount_below(layout.root)
            drives.detach_below(layout.root)
            _remove_files(layout, keep_cache=keep_cache)
            layout.lock.unlink(missing_ok=True)


def _remove_files(layout: Layout, *, keep_cache: bool) -> None:
    """Remove the lab's files by name: `METALSERVE_LAB_DIR` may be a directory that has others in it."""
    left = mounts_below(layout.root.resolve())
    if left:
        raise MetalserveError(
            "still mounted, so nothing below it is removed", where=str(left[0]), remedy=f"umount {left[0]}"
        )
    for name in layout.made_names:
        path = layout.root / name
        if name in ("cache", "number") and keep_cache:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if layout.root.is_dir() and not any(layout.root.iterdir()):
        layout.root.rmdir()


def _remove_hosts(layout: Layout) -> None:
    place = layout.root / "hosts"
    names = [path.name for path in place.iterdir()] if place.is_dir() else []
    with ThreadPoolExecutor(max_workers=4) as pool:
        for done in [pool.submit(hosts.remove_directory, layout, name) for name in names]:
            done.result()
