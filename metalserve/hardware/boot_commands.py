"""The command that reads what the next boot will find. Few processes, no tool that a host lacks.

It prints blocks, each begun by a line `@boot:NAME`. What is slow is asked only where it matters: apt's candidates
where unattended-upgrades is on, keys where the kernel wants signatures. The content of an initramfs is not listed
(seconds for one of 60 MB): its time tells what it cannot know of.
"""

from __future__ import annotations

import shlex
from typing import Final

LIMIT_S: Final = 15
"""Seconds after which it is ended (guessed): 0.1 to 0.3 s on a host with a warm disk, DKMS being the slowest."""

_LOADER = r"""b() { printf '\n@boot:%s\n' "$1"; }
b host
printf 'now=%s\nkernel=%s\n' "$(date +%s)" "$(uname -r)"
sed -n 's/^btime /btime=/p' /proc/stat
command -v modinfo >/dev/null 2>&1 && echo modinfo=1
v=/sys/firmware/efi/efivars; g=4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
for n in LoaderInfo LoaderEntryOneShot LoaderEntryDefault LoaderEntrySelected; do
[ -r "$v/$n-$g" ] && printf '%s=%s\n' "$n" "$(tail -c +5 "$v/$n-$g" 2>/dev/null | tr -d '\0')"; done
f=/sys/kernel/security/lockdown; [ -r "$f" ] && read -r l <"$f" && printf 'lockdown=%s\n' "$l"
f=/sys/module/module/parameters/sig_enforce; [ -r "$f" ] && read -r l <"$f" && printf 'sig_enforce=%s\n' "$l"
for f in /boot/grub/grub.cfg /boot/grub2/grub.cfg; do [ -r "$f" ] || continue
b "grub-cfg $f"
grep -aE '^[[:space:]]*((menuentry|submenu|function) .*\{|\}|linux(16|efi)?[[:space:]]|set default=|blscfg)' "$f"
b grubenv
grep -saE '^(saved_entry|next_entry)=' "${f%/*}/grubenv"
break; done
b grub-default
grep -shE '^[ \t]*GRUB_DEFAULT=' /etc/default/grub /etc/default/grub.d/*.cfg
for d in /boot /efi /boot/efi; do
[ -r "$d/loader/loader.conf" ] && b "loader-conf $d" && grep -aE '^ *default ' "$d/loader/loader.conf"
for f in "$d"/loader/entries/*.conf "$d"/EFI/Linux/*.efi; do [ -e "$f" ] || continue
b "entry $f"; case $f in *.conf) grep -aE '^ *(title|version|linux|sort-key|machine-id|options|efi) ' "$f";; esac
done; done"""

_KERNELS = r"""
b files
for f in /boot/vmlinuz-* /boot/vmlinux-*; do [ -f "$f" ] && stat --printf 'image\t%n\t%s\t%Y\n' "$f"; done
for f in /boot/initrd.img-* /boot/initramfs-*.img; do [ -f "$f" ] && stat --printf 'initrd\t%n\t%s\t%Y\n' "$f"; done
for f in /vmlinuz /boot/vmlinuz; do [ -L "$f" ] && printf 'link\t%s\t%s\n' "$f" "$(readlink "$f")"; done
ks=$(for f in /boot/vmlinuz-* /lib/modules/*; do [ -e "$f" ] || continue; f=${f##*/}; printf '%s\n' "${f#vmlinuz-}"
done | sort -uV | tail -n 12)
for k in $ks; do t=/lib/modules/$k
[ -d "$t" ] && printf 'tree\t%s\n' "$k"
if [ -e "$t/build/include" ] || [ -e "$t/build/Makefile" ]; then printf 'headers\t%s\n' "$k"; fi
for f in "$t"/kernel/drivers/gpu/drm/nouveau/nouveau.ko*; do [ -e "$f" ] && printf 'nouveau\t%s\n' "$k"; done
for f in "$t"/updates/dkms/nvidia.ko* "$t"/updates/nvidia.ko* "$t"/updates/dkms/nvidia-current.ko* \
"$t"/kernel/drivers/video/nvidia.ko* "$t"/kernel/drivers/video/nvidia/nvidia.ko* "$t"/kernel/nvidia-*/nvidia.ko* \
"$t"/extra/nvidia.ko* "$t"/extra/*/nvidia.ko* "$t"/weak-updates/nvidia.ko* "$t"/weak-updates/*/nvidia.ko*; do
[ -e "$f" ] && printf 'module\t%s\t%s\t%s\n' "$k" "$f" "$(stat -L --printf '%s\t%Y' "$f")"; done; done
for k in $ks; do [ -d "/lib/modules/$k" ] || continue
b "modinfo $k"
timeout 5 modinfo -k "$k" nvidia 2>&1 | grep -aE '^(filename|version|license|vermagic|signer|sig_id|modinfo): *'; done
if command -v dkms >/dev/null 2>&1; then b dkms; timeout 8 dkms status 2>&1; echo "rc=$?"; fi
b modprobe
for f in $(grep -slE '^[ \t]*(blacklist[ \t]+(nouveau|nova_core)|install[ \t]+nouveau[ \t])' /etc/modprobe.d/*.conf \
/usr/lib/modprobe.d/*.conf /lib/modprobe.d/*.conf /run/modprobe.d/*.conf); do
grep -hE '^[ \t]*(blacklist|install)[ \t]+nouveau' "$f" | sed "s|^|$(stat -L --printf '%n\\t%Y\\t' "$f")|"; done
b early
grep -sHE '^[^#]*nvidia' /etc/initramfs-tools/modules /etc/dracut.conf /etc/dracut.conf.d/*.conf \
/usr/lib/dracut/dracut.conf.d/*.conf
b library
for f in /usr/lib/*/libnvidia-ml.so.[0-9]*.* /usr/lib64/libnvidia-ml.so.[0-9]*.* /usr/lib/libnvidia-ml.so.[0-9]*.* \
/usr/lib/*/nvidia/current/libnvidia-ml.so.[0-9]*.*; do [ -f "$f" ] && printf '%s\n' "${f##*.so.}"; done
b units
for u in nvidia-fabricmanager.service nvidia-persistenced.service docker.service; do
printf '%s=%s\n' "$u" "$(timeout 3 systemctl is-enabled "$u" 2>/dev/null)"; done"""

_PACKAGES = r"""
b space
for p in /boot /var; do [ -d "$p" ] && printf '%s %s\n' "$p" "$(df -Pk "$p" 2>/dev/null | tail -n 1)"; done
if command -v dpkg-query >/dev/null 2>&1; then b packages
dpkg-query -W -f='${db:Status-Abbrev}\t${Package}\t${Version}\n' 2>/dev/null | awk -F'\t' '
$1 ~ /^.[nc]/ {next} $1 !~ /^.i $/ {print; next}
$2 ~ /nvidia|^libcuda|^cuda-drivers|^nvlsm$|^dkms$|^linux-(image|headers|modules|generic)|^docker|^containerd|^runc$/'
ls /var/lib/dpkg/updates 2>/dev/null | sed 's/^/journal=/'
b preferences
for f in /etc/apt/preferences /etc/apt/preferences.d/*; do
grep -sqi nvidia "$f" && printf 'file=%s\n' "$f" && grep -iE '^ *(Package|Pin|Pin-Priority):|^ *$' "$f"; done
b apt
apt-config dump 2>/dev/null | grep -E '^(APT::Periodic::|Unattended-Upgrade::)'
u=0; [ -x /usr/bin/unattended-upgrade ] && u=1; printf 'unattended=%s\n' "$u"
. /etc/os-release; printf 'distro_id=%s\ndistro_codename=%s\n' "${ID:-}" "${VERSION_CODENAME:-}"
if [ "$u" = 1 ]; then
timeout 3 systemctl show apt-daily-upgrade.timer -p ActiveState -p NextElapseUSecRealtime 2>/dev/null
if apt-config dump 2>/dev/null | grep -qE '^APT::Periodic::Unattended-Upgrade "([1-9]|always)'; then
b policy; timeout 6 apt-cache policy 2>/dev/null
b candidates; timeout 6 apt-cache policy $(dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' 2>/dev/null | awk '
$1 ~ /^.i/ && $2 ~ /nvidia|^libcuda|^cuda-drivers|^nvlsm$|^linux-(image|headers|modules|generic)|^docker|^containerd/ {
print $2}') 2>/dev/null
fi; fi; fi"""

_KEYS = r"""
b keys
sb=0; [ -d /sys/firmware/efi ] &&
sb=$(od -An -t u1 -j4 -N1 "$v/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c" 2>/dev/null | tr -d ' ')
if [ "$sb" = 1 ] || ! grep -qs '\[none\]' /sys/kernel/security/lockdown; then
grep -aE ' asymmetri' /proc/keys 2>/dev/null |
sed -E 's/^.* asymmetri[a-z]* *//; s/: [A-Za-z0-9.]+ [0-9a-f]+ \[.*$//; s/^/key=/'
for c in /var/lib/shim-signed/mok/MOK.der /var/lib/dkms/mok.pub; do [ -r "$c" ] || continue
command -v mokutil >/dev/null 2>&1 && printf 'mok=%s\n' "$(timeout 3 mokutil --test-key "$c" 2>&1 | head -n 1)"
done; fi
b end
:"""

NEXT_BOOT: Final = f"timeout -k 2 {LIMIT_S} sh -c {shlex.quote(_LOADER + _KERNELS + _PACKAGES + _KEYS)}"
"""Read by `metalserve.hardware.parsers.next_boot.parse_next_boot`."""
