"""Hosts that only a power cut or a new installation brings back, as marks in a host's directory."""

from __future__ import annotations

from pathlib import Path

from metalserve.lab import faults

_HUNG, _DESTROYED, _UNPLUGGED = "hung", "destroyed", "unplugged"

_NO_OS = ["sleep", "infinity"]
"""What runs in place of an OS on a host that finds none: it has power, and does nothing."""


def hang(directory: Path) -> None:
    """Mark a host as one that hears nothing until its power is cut."""
    (directory / _HUNG).touch()


def hangs(directory: Path) -> bool:
    """Tell whether the host hears nothing."""
    return (directory / _HUNG).exists()


def unhang(directory: Path) -> None:
    """End a hang, and with it what it did to the host's cable."""
    if hangs(directory):
        (directory / _HUNG).unlink()
        (directory / _UNPLUGGED).unlink(missing_ok=True)


def power_was_cut(directory: Path) -> None:
    """End what a power cut ends."""
    if hangs(directory):
        unhang(directory)
        faults.heal(directory, "host-hang")


def destroy(directory: Path) -> None:
    """Mark the file system of the system's drive as gone."""
    (directory / _DESTROYED).touch()


def restore(directory: Path) -> bool:
    """Give the file system back; False when it was not gone."""
    gone = (directory / _DESTROYED).exists()
    (directory / _DESTROYED).unlink(missing_ok=True)
    return gone


def made_anew(directory: Path) -> None:
    """End what a new installation ends."""
    if restore(directory):
        faults.heal(directory, "filesystem-destroyed")


def runs(directory: Path, command: list[str]) -> list[str]:
    """Return what runs when the host is switched on: `command`, or nothing that does anything."""
    return list(_NO_OS) if (directory / _DESTROYED).exists() else command
