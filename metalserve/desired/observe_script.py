"""The script that observes a host: POSIX shell, one SSH session, nothing needed on the host but coreutils."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from metalserve.desired.model import Watch

_HEAD = r"""
LC_ALL=C; export LC_ALL
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH
ms_section() { printf '\n@@ms:%s\n' "$1"; }
ms_command() { # name, shell text: output and status of one command, whatever it does
  printf '\n@@ms:%s\n' "$1"
  timeout -k 5 60 sh -c "$2" </dev/null 2>&1
  printf '\n@@rc:%s\n' "$?"
}
ms_section facts
printf 'kernel=%s\narch=%s\nuid=%s\n' "$(uname -r)" "$(uname -m)" "$(id -u)"
printf 'hostname=%s\n' "$(hostname 2>/dev/null || cat /etc/hostname)"
printf 'now=%s\n' "$(date +%s.%N)"
printf 'boot_id=%s\n' "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"
[ -d /run/systemd/system ] && echo live=1 || echo live=0
# In an image the running kernel is the builder's: its own is the newest that it would boot. Commands ask MS_KERNEL.
MS_KERNEL=$(uname -r)
if [ ! -d /run/systemd/system ]; then
  ms_own=$(ls /boot 2>/dev/null | sed -n 's/^vmlinuz-//p' | sort -V | tail -n 1)
  printf 'image_kernel=%s\n' "$ms_own"
  MS_KERNEL=${ms_own:-$MS_KERNEL}
fi
export MS_KERNEL
[ -e /run/metalserve/reboot-marker ] && echo reboot_marker=1 || echo reboot_marker=0
# A container has /proc/sys mounted read-only over itself; the last such mount counts.
if awk '$5=="/proc/sys"{o=$6} END{exit !(o ~ /(^|,)ro(,|$)/)}' /proc/self/mountinfo 2>/dev/null
then echo proc_sys_rw=0; else echo proc_sys_rw=1; fi
printf 'virt=%s\n' "$(systemd-detect-virt 2>/dev/null || :)"
printf 'memory_kib=%s\n' "$(awk '/^MemTotal/{print $2}' /proc/meminfo)"
if [ -d /sys/firmware/efi ]; then
  sb=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
  sb=$(od -An -t u1 -j4 -N1 "$sb" 2>/dev/null | tr -d ' ')
  echo "secure_boot=${sb:-unknown}"
else echo secure_boot=0; fi
ms_section os-release
cat /etc/os-release 2>/dev/null
ms_section packages
if command -v dpkg-query >/dev/null
then dpkg-query -W -f='${db:Status-Abbrev}\t${Package}\t${Version}\n' 2>/dev/null; fi
"""

_FILES = r"""
ms_section files
for p in {paths}; do
  [ -e "$p" ] || [ -L "$p" ] || continue
  h=; t=
  if [ -L "$p" ]; then t=$(readlink "$p"); elif [ -f "$p" ]; then h=$(sha256sum <"$p"); h=${{h%% *}}; fi
  printf '%s\t%s\t%s\t%s\n' "$(stat -c '%F	%a	%U	%G	%.6Y	%s' "$p")" "$h" "$t" "$p"
done
"""

_UNITS = r"""
ms_section units
systemctl show --no-pager --timestamp=us+utc -p Id -p Names -p LoadState -p ActiveState -p SubState -p UnitFileState \
  -p ExecMainStartTimestamp -p ActiveEnterTimestamp -p NeedDaemonReload -p Result -p NRestarts {units} 2>/dev/null
"""

_UNITS_OFFLINE = r"""
if [ ! -d /run/systemd/system ]; then
  for u in {units}; do
    printf '\nId=%s\nUnitFileState=%s\n' "$u" "$(systemctl is-enabled "$u" 2>/dev/null)"
  done
fi
"""

_SYSCTLS = r"""
ms_section sysctls
for k in {keys}; do
  f=/proc/sys/$(printf '%s' "$k" | tr . /)
  [ -r "$f" ] && printf '%s=%s\n' "$k" "$(tr '\t' ' ' <"$f")"
done
"""

_KEYS = r"""
ms_section keys
for k in /etc/apt/keyrings/metalserve-*.asc; do
  [ -f "$k" ] || continue
  echo "path=$k"
  command -v gpg >/dev/null && gpg --batch --show-keys --with-colons "$k" 2>/dev/null
done
"""


def observation_script(watch: Watch, hardware_commands: Mapping[str, str]) -> str:
    """Make the shell script that observes a host.

    Args:
        watch: the paths, units, sysctls and commands that the roles want to know.
        hardware_commands: section name -> command, from `metalserve.hardware.commands`; run beside each other.

    Returns:
        POSIX shell text; its output is read by `observed.parse_observation`.
    """
    # Globs must be expanded by the host's shell, so paths are quoted piece by piece.
    paths = " ".join(_quote_glob(p) for p in watch.paths) or "/nonexistent"
    units = " ".join(shlex.quote(u) for u in watch.units) or "-.mount"
    own = [
        _FILES.format(paths=paths),
        _UNITS.format(units=units),
        _UNITS_OFFLINE.format(units=units),
        _SYSCTLS.format(keys=" ".join(shlex.quote(k) for k in watch.sysctls) or "kernel.hostname"),
        _KEYS,
        *(_command(name, command) for name, command in watch.commands.items()),
    ]
    tools = [_command(name, command) for name, command in hardware_commands.items() if name not in watch.commands]
    # The tools of the hardware wait more than they compute: they run beside the rest, in two rows. Each group prints
    # its own, then what the one before it in the pipe has printed: "end" comes through only when all have ended.
    return "".join(
        (
            _HEAD,
            "{\n", *tools[0::2], "ms_section end\n} | {\n", _BEHIND, *tools[1::2],
            "cat <&6\n} | {\n", _BEHIND, *own, "cat <&6\n}\n",
        )
    )  # fmt: skip


_BEHIND = "exec 6<&0 </dev/null\n"


def _command(name: str, command: str) -> str:
    return f"ms_command {shlex.quote(name)} {shlex.quote(command)}\n"


def _quote_glob(path: str) -> str:
    return "".join(c if c in "*?[]" else shlex.quote(c) if not (c.isalnum() or c in "/._-@") else c for c in path)
