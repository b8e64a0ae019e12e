"""The simulated boot loader: what it writes is read as GRUB's, and a boot takes the kernel that it names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from metalserve.hardware.boot import BootState, DiskFile, DiskKernel
from metalserve.hardware.parsers.boot_menu import grub_menu
from metalserve.lab.sim import decay, grub
from metalserve.verify.next_kernel import next_kernel
from tests.lab_sim.machine import Machine

Make = Callable[[str], Machine]
RUNNING = os.uname().release
NEXT = grub.newer(RUNNING)


def predicted(host: Machine) -> str | None:
    """The kernel that metalserve says boots next."""
    config = (host.system / "boot/grub/grub.cfg").read_text()
    environment = host.system / "boot/grub/grubenv"
    said = environment.read_text() if environment.exists() else ""
    menu = grub_menu("/boot/grub/grub.cfg", config, said, "", {})
    there = tuple(DiskKernel(r, DiskFile(f"/boot/vmlinuz-{r}", 1, 0)) for r in grub.images(host.lab))
    return next_kernel(BootState(menu=menu, kernels=there)).release


def test_a_fresh_host_boots_the_kernel_beneath(machine: Make) -> None:
    host = machine("l40s-4")
    grub.prepare(host.lab)
    assert grub.kernel(host.lab) == RUNNING == predicted(host)
    assert "simulated" in (host.system / "boot/grub/grub.cfg").read_text()
    assert not (host.system / "usr/local/bin/uname").exists()


def test_a_newer_kernel_is_predicted_and_then_boots_without_modules(machine: Make) -> None:
    host = machine("l40s-4")
    grub.prepare(host.lab)
    host.ready()
    decay.new_kernel(host.lab, {"kind": "kernel-without-headers"}, None)
    assert predicted(host) == NEXT and grub.kernel(host.lab) == RUNNING
    assert host.run(f"modinfo -k {RUNNING} -F version nvidia") == (0, "580.178.04\n")
    assert host.run(f"modinfo -k {NEXT} nvidia")[0] == 1
    grub.prepare(host.lab)  # the boot
    assert grub.kernel(host.lab) == NEXT
    assert NEXT in host.run("modprobe nvidia-modeset")[1] or host.lab.modules()
    assert (host.system / "usr/local/bin/uname").exists()


def test_grub_reboot_counts_once(machine: Make) -> None:
    host = machine("l40s-4")
    grub.prepare(host.lab)
    grub.install(host.lab, NEXT)
    grub.update(host.lab)
    entry = f"gnulinux-advanced-lab>gnulinux-{RUNNING}-advanced-lab"
    (host.system / "boot/grub/grubenv").write_text(f"next_entry={entry}\n")
    assert predicted(host) == RUNNING
    grub.prepare(host.lab)
    assert grub.kernel(host.lab) == RUNNING and predicted(host) == NEXT


def test_dkms_loses_the_source_and_the_module(machine: Make) -> None:
    host = machine("l40s-4")
    grub.prepare(host.lab)
    host.ready()
    source: Path = host.system / "usr/src/nvidia-580.178.04"
    source.mkdir(parents=True)
    (source / "dkms.conf").write_text("x")
    done = decay.break_dkms(host.lab, {}, None)
    assert done["kernel"] == RUNNING and not (source / "dkms.conf").exists()
    assert host.run("modinfo nvidia")[0] == 1
    assert decay.break_dkms(host.lab, {}, done) == done  # once: what is repaired stays repaired
