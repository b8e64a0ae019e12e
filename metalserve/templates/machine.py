"""What a tree gets beside packages and roles: users, the table of file systems, its own description."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from metalserve.templates.boot_chain import DEFAULTS, INSTALLED, MENU, grub_defaults, grub_installed, grub_menu
from metalserve.templates.clean import write
from metalserve.templates.firstboot import first_boot_files
from metalserve.templates.pack import Identity, fstab
from metalserve.templates.spec import TemplateSpec, UserSpec

DESCRIPTION = "etc/metalserve/template.json"


UNSIGNED = "etc/dkms/framework.conf.d/metalserve-build.conf"


def prepare(root: Path) -> None:
    """Write into a tree what holds only while it is built; `clean` takes it away.

    DKMS would make a key and sign the modules of this build with it: no machine trusts that key, and no two builds
    would have the same modules. A node signs what it builds itself.
    """
    write(root, UNSIGNED, 'sign_file="/nonexistent"\n')


def users_script(users: list[UserSpec]) -> str:
    """Return the POSIX shell that makes the users; nobody gets a password, so that keys are the only way in."""
    lines = ["set -eu"]
    for user in users:
        name = shlex.quote(user.name)
        lines.append(f"id -u {name} >/dev/null 2>&1 || useradd --create-home --shell /bin/bash {name}")
        lines += [f"usermod --append --groups {shlex.quote(group)} {name}" for group in user.groups]
        if user.sudo:
            path = shlex.quote(f"/etc/sudoers.d/90-{user.name}")
            lines.append(f"printf '%s ALL=(ALL) NOPASSWD:ALL\\n' {name} >{path}; chmod 0440 {path}")
        if user.authorized_keys:
            keys = shlex.quote("".join(f"{key}\n" for key in user.authorized_keys))
            lines += [
                f"home=$(getent passwd {name} | cut -d: -f6); group=$(id -gn {name})",
                f'install -d -m 0700 -o {name} -g "$group" "$home/.ssh"',
                f'printf %s {keys} >"$home/.ssh/authorized_keys"',
                f'chown {name}:"$group" "$home/.ssh/authorized_keys"; chmod 0600 "$home/.ssh/authorized_keys"',
            ]
    return "\n".join(lines) + "\n"


def describe(spec: TemplateSpec, inputs: str, epoch: int) -> str:
    """Return what an image says of itself; not when it was built, which would make two of the same differ."""
    value = {"name": spec.name, "inputs": inputs, "release": spec.release, "roles": spec.roles, "epoch": epoch}
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def furnish(spec: TemplateSpec, root: Path, identity: Identity, inputs: str, epoch: int) -> None:
    """Write the files of the disk, of the template and of the first boot into a cleaned tree."""
    write(root, "etc/fstab", fstab(identity))
    (root / "boot/efi").mkdir(parents=True, exist_ok=True)
    if spec.chain == "distribution":
        write(root, DEFAULTS, grub_defaults(spec))
        write(root, MENU, grub_menu(spec, root, identity.file_system), 0o444)
        write(root, INSTALLED, grub_installed(), 0o600)
    write(root, DESCRIPTION, describe(spec, inputs, epoch))
    for path, (mode, text) in first_boot_files(spec).items():
        write(root, path.lstrip("/"), text, mode)
