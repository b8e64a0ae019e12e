"""Running a program in a tree that is to become an image, as if the machine of that image were there: a container.

What the tree sees is not this machine: no devices or PCI bus of its own, its own host name, kernel settings that cannot
be changed, and the kernel of the image where packages and roles ask `uname -r`. Nothing is started: packages are told
so. All of it is made in namespaces of the process that is run, and is gone with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from metalserve.trees.inside import CONTAINED, PATH, bind_line

STAND_INS = ("usr/local/sbin/uname", "usr/sbin/policy-rc.d")
"""Files that the container lays over the tree; where there were none, an empty one stays behind for `clean`."""

# Paths below "$root" are looked up by this machine, so a link in the tree could lead out of it: there must be none on
# the way to a place that something is written to or mounted on.
_SCRIPT = r"""
set -eu
umask 022
root=$1; shift
fail() { echo "image $root: $1" >&2; exit 97; }
[ -d "$root/usr" ] || fail 'no file system of an image is there'
for d in proc sys dev run tmp etc mnt boot usr usr/sbin usr/local usr/local/sbin var var/cache var/cache/apt \
  var/cache/apt/archives; do
  [ ! -L "$root/$d" ] || fail "/$d is a link, and could lead out of the image"
  [ -d "$root/$d" ] || mkdir "$root/$d"
done
mount --bind "$root" "$root"
cd "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
echo localhost >/proc/sys/kernel/hostname

mount -t tmpfs -o mode=0755,nosuid,nodev,noexec tmpfs "$root/sys"
for d in block bus class dev devices firmware fs kernel module power; do mkdir "$root/sys/$d"; done
mount -o remount,ro "$root/sys"

mount -t tmpfs -o mode=0755,nosuid tmpfs "$root/dev"
for d in null zero full random urandom tty; do : >"$root/dev/$d"; mount --bind "/dev/$d" "$root/dev/$d"; done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for n in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${n%%:*}" "$root/dev/${n#*:}"; done

mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs "$root/run"
mkdir "$root/run/lock" "$root/run/image"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"

over() { # FILE PATH: FILE is seen at PATH of the tree, which is left as it is
  [ ! -L "$root/$2" ] || fail "/$2 is a link"
  [ -e "$root/$2" ] || : >"$root/$2"
  mount --bind "$1" "$root/$2"
}
printf '#!/bin/sh\nexit 101\n' >"$root/run/image/policy-rc.d"
chmod 0755 "$root/run/image/policy-rc.d"
over "$root/run/image/policy-rc.d" usr/sbin/policy-rc.d

kernel=$(ls "$root/boot" | sed -n 's/^vmlinuz-//p' | sort -V | tail -n 1)
if [ -n "$kernel" ]; then
  printf '#!/bin/sh\n/usr/bin/uname "$@" | sed "s|%s|%s|"\n' "$(uname -r)" "$kernel" >"$root/run/image/uname"
  chmod 0755 "$root/run/image/uname"
  over "$root/run/image/uname" usr/local/sbin/uname
fi

# Names are resolved as this machine does it.
if [ -L "$root/etc/resolv.conf" ]; then
  target=$(chroot "$root" readlink -m /etc/resolv.conf)
  case "$target" in
    /run/*) mkdir -p "$root$(dirname "$target")"; cp /etc/resolv.conf "$root$target" ;;
    *) fail "/etc/resolv.conf leads to $target" ;;
  esac
else
  cp /etc/resolv.conf "$root/run/image/resolv.conf"
  over "$root/run/image/resolv.conf" etc/resolv.conf
fi
"""

_ENTER = 'exec chroot "$root" /usr/bin/env -i "$@"\n'


def command_in_image(
    root: Path,
    command: Sequence[str | Path],
    *,
    binds: Mapping[Path, str] | None = None,
    environment: Mapping[str, str] | None = None,
    epoch: int | None = None,
) -> list[str]:
    """Return the command line that runs `command` in the image's tree `root`.

    Its processes end with it, and it ends with whoever started it. It needs root and the packages util-linux and mount.

    Args:
        root: the tree.
        command: the program, as the tree knows it, and its arguments.
        binds: directories of this machine -> where the tree is to have them.
        environment: variables beside those that an image needs.
        epoch: SOURCE_DATE_EPOCH, seconds since 1970.
    """
    variables = {
        "PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", "SYSTEMD_OFFLINE": "1",
        **({"SOURCE_DATE_EPOCH": str(epoch)} if epoch is not None else {}), **(environment or {}),
    }  # fmt: skip
    lines = [_SCRIPT, *(bind_line(source, target) for source, target in (binds or {}).items()), _ENTER]
    return [
        *CONTAINED, "--uts", "--ipc", "sh", "-c", "".join(lines), "image", str(root),
        *(f"{key}={value}" for key, value in variables.items()), *map(str, command),
    ]  # fmt: skip
