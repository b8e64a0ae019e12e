"""From differences to one shell script that mends them. Pure: text out; the seam runs it."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from metalserve.desired.diff import Change
from metalserve.desired.model import (
    Action,
    Directory,
    File,
    Module,
    Package,
    Reboot,
    SigningKey,
    Sysctl,
    Unit,
)

RUN_FROM_STDIN = 'eval "$(cat)" </dev/null'
"""The command that runs a script given by standard input: never in argv, never in a file, so neither `ps` nor a log
shows its secrets, and nothing that it starts can eat the rest of it."""

_RELOAD = "if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi"
_SYSTEMD_PATHS = ("/etc/systemd/system/", "/etc/systemd/", "/run/systemd/system/", "/usr/lib/systemd/system/")


@cache
def prelude() -> str:
    """Return the shell functions that every mending script begins with."""
    return (Path(__file__).parent / "prelude.sh").read_text()


def render(changes: Sequence[Change], *, lock_timeout_s: int = 600) -> str:
    """Make the script that carries out `changes` in order (a `Reboot` is not in it: the seam does that).

    Args:
        changes: from `diff.difference`.
        lock_timeout_s: how long to wait for another process' apt lock, in seconds.

    Returns:
        POSIX shell text, to be given to `sh` by standard input or a private file: it holds secrets.
    """
    # Errors go the way of the output: pyinfra reads the two in separate greenlets, and their order would be lost.
    # The brackets make a subshell that does not have the lock's descriptor, so no daemon started in it inherits it.
    lines = ["set -eu", "exec 2>&1", f"MS_LOCK_TIMEOUT={lock_timeout_s}", prelude(), "ms_apply_lock", "("]
    packages = [c for c in changes if isinstance(c.resource, Package)]
    units = [c for c in changes if isinstance(c.resource, Unit)]
    done_packages = done_reload = False
    for change in changes:
        resource = change.resource
        if isinstance(resource, Reboot):
            continue
        if isinstance(resource, Package):
            if not done_packages:
                lines += _packages(packages)
                done_packages = True
            continue
        if isinstance(resource, Unit) and not done_reload:
            # One reload for all units, before the first of them: unit files were written above.
            lines.append(_RELOAD)
            done_reload = True
        lines.append(f"ms_step {shlex.quote(change.summary)}")
        lines += _resource(change)
    if not units and any(isinstance(c.resource, File) and c.resource.path.startswith(_SYSTEMD_PATHS) for c in changes):
        lines.append(_RELOAD)
    # Not last in the script: dash runs a last subshell without a fork, and would close the lock with the descriptor.
    lines += [":", ") 8>&-", "ms_step done"]
    return "\n".join(lines) + "\n"


def _resource(change: Change) -> list[str]:
    match change.resource:
        case File() as file:
            return _file(file)
        case Directory(path=path, mode=mode, owner=owner, group=group):
            q = shlex.quote(path)
            return [
                f"if [ -e {q} ] && [ ! -d {q} ]; then ms_fail {q}' exists and is no directory -> move it away'; fi",
                f"mkdir -p {q}; chown {owner}:{group} {q}; chmod {mode} {q}",
            ]
        case SigningKey() as key:
            return _key(key)
        case Sysctl(key=name, value=value):
            return [f"sysctl -q -w {shlex.quote(f'{name}={value}')}"]
        case Module(name=name):
            return [f"modprobe {shlex.quote(name)}"]
        case Action(script=script):
            # A subshell: what one action sets or leaves (cd, traps, variables) does not reach the next.
            return ["(", script.rstrip("\n"), ")"]
        case Unit(name=name):
            return [_unit_command(verb, name) for verb in change.verbs]
    return []


def _file(file: File) -> list[str]:
    if file.content is None:
        return [f"rm -f {shlex.quote(file.path)}"]
    encoded = base64.encodebytes(file.content.encode()).decode()
    return [
        f"ms_put {shlex.quote(file.path)} {file.mode} {file.owner} {file.group} <<'MS_EOF'",
        encoded.rstrip("\n"),
        "MS_EOF",
    ]


def _key(key: SigningKey) -> list[str]:
    target = f"ms_key {shlex.quote(key.path)} {key.fingerprint.upper()}"
    if key.content is not None:
        encoded = base64.encodebytes(key.content.encode()).decode().rstrip("\n")
        return [f"base64 -d <<'MS_EOF' | {target}", encoded, "MS_EOF"]
    url = shlex.quote(key.url or "")
    # Fetched to a file first: in a pipe, a failed download would look like a key with a wrong fingerprint.
    return [
        'ms_download=$(mktemp "$MS_RUN/download.XXXXXXXX")',
        f'curl -fsSL --retry 3 --connect-timeout 10 -o "$ms_download" {url} || '
        f"ms_fail 'could not fetch the repository key -> check repositories.*.key.url and the network'",
        f'{target} <"$ms_download"; rm -f "$ms_download"',
    ]


def _unit_command(verb: str, name: str) -> str:
    q = shlex.quote(name)
    if verb == "daemon-reload":
        return ":  # done above, once for all units"
    if verb == "reload":
        return f"systemctl reload-or-restart {q}"
    if verb in ("start", "restart"):
        # A unit that failed too often refuses to start until its counter is cleared.
        return (
            f"systemctl reset-failed {q} 2>/dev/null || :; systemctl {verb} {q} || "
            f"{{ systemctl status --no-pager -n 25 {q} >&2 || :; ms_fail 'unit {name} did not {verb}'; }}"
        )
    if verb == "mask":
        # `systemctl mask` refuses where a real file stands in /etc; the link is what it would make.
        return f"ln -sfT /dev/null /etc/systemd/system/{q}; {_RELOAD}"
    return f"systemctl -q {verb} {q}"


def _packages(changes: Iterable[Change]) -> list[str]:
    wanted = [c.resource for c in changes if isinstance(c.resource, Package)]
    install = [p for p in wanted if p.present]
    remove = [p for p in wanted if not p.present]
    # An update or an unattended upgrade that was cut off leaves dpkg half-way; all else fails until that is healed.
    lines = [
        'if [ -n "$(dpkg --audit 2>/dev/null; ls -A /var/lib/dpkg/updates 2>/dev/null)" ]; then',
        "ms_step 'dpkg was left half-way: configure'; dpkg --configure -a || ms_apt -f install; fi",
    ]
    words: list[str] = []
    if install:
        lines += [
            f"ms_step {shlex.quote('package lists, for ' + ', '.join(p.name for p in install))}",
            "ms_apt update || ms_fail 'apt-get update failed -> check the repositories and the network'",
        ]
        words, resolving = _resolved(install)
        lines += resolving
    if remove:
        names = " ".join(shlex.quote(p.name) for p in remove)
        lines += [f"ms_step {shlex.quote('packages removed: ' + names)}", f"ms_apt purge {names}"]
    if install:
        lines += [
            f"ms_step {shlex.quote('packages ' + ' '.join(_words(p) for p in install))}",
            f"ms_apt install --allow-downgrades --allow-change-held-packages {' '.join(words)} || "
            f"{{ ms_missing {' '.join(shlex.quote(p.name) for p in install)}; ms_fail 'apt-get install failed'; }}",
        ]
    return lines


def _resolved(install: Sequence[Package]) -> tuple[list[str], list[str]]:
    """Return apt's words for `install`, and the lines that find their versions.

    Versions are found one by one, so that all that are missing are told before anything is removed or installed.
    """
    words, lines = [], ["ms_absent='' ms_told='' ms_lacking=0"]
    for i, package in enumerate(install):
        name = shlex.quote(package.name)
        if package.version is None:
            words.append(name)
            continue
        words.append(f'{name}="$ms_v{i}"')
        lines.append(
            f"ms_v{i}=$(ms_version {name} {shlex.quote(package.version)} 2>&1) || "
            f'{{ echo "$ms_v{i}"; ms_told=$ms_v{i}; ms_lacking=$((ms_lacking + 1)); '
            f'ms_absent="${{ms_absent:+$ms_absent, }}"{shlex.quote(f"{package.name} {package.version}")}; }}'
        )
    if len(lines) == 1:
        return words, []
    lines += [
        f"[ $ms_lacking -eq 0 ] || ms_step {shlex.quote('packages ' + ' '.join(_words(p) for p in install))}",
        '[ $ms_lacking -ne 1 ] || ms_fail "$ms_told"',
        "[ $ms_lacking -eq 0 ] || ms_fail \"the host's repositories lack $ms_lacking packages of the release: "
        '$ms_absent (what they have stands above) -> check the release and repositories.nvidia.url"',
    ]
    return words, lines


def _words(package: Package) -> str:
    return package.name if package.version is None else f"{package.name}={package.version}"
