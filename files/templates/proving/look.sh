# What `metalserve template test` asks of a machine that was booted from an image, as root. POSIX sh; changes nothing.
# Each answer stands behind a line `== NAME`.
say() { printf '\n== %s\n' "$1"; }

say cloud-init
if command -v cloud-init >/dev/null 2>&1; then cloud-init status --wait --long 2>&1; else echo none; fi
say state
timeout 300 systemctl is-system-running --wait 2>&1
say failed
systemctl list-units --failed --plain --no-legend --no-pager | awk '{print $1}'
say cycles
# not _PID=1: what systemd finds before the journal runs comes by way of the kernel, without it
journalctl -b --no-pager -q -o cat SYSLOG_IDENTIFIER=systemd 2>/dev/null | grep 'deleted to break ordering cycle' | sort -u
say machine-id
cat /etc/machine-id
say host-keys
for key in /etc/ssh/ssh_host_*_key.pub; do [ ! -e "$key" ] || cut -d' ' -f1,2 "$key"; done
say hostnqn
cat /etc/nvme/hostnqn 2>/dev/null
say hostid
cat /etc/nvme/hostid 2>/dev/null
say random-seed
sha256sum /var/lib/systemd/random-seed 2>/dev/null | cut -d' ' -f1
say boot-id
cat /proc/sys/kernel/random/boot_id
say hostname
cat /proc/sys/kernel/hostname
say kernel
uname -r
say root-bytes
df -B1 --output=size / | tail -n 1
say root-disk
disk=$(lsblk -ndo PKNAME "$(findmnt -nvo SOURCE /)" 2>/dev/null)
[ -n "$disk" ] && cat "/sys/block/$disk/size"
say unmounted
# what fstab names and is not there: `nofail` keeps it from being a failed unit
awk '$1 !~ /^#/ && $2 ~ /^\// {print $2}' /etc/fstab | while read -r place; do
  mountpoint -q "$place" || printf '%s\n' "$place"
done
say drives
for drive in /sys/block/nvme*; do
  [ -e "$drive" ] && printf '%s %s\n' "$(sed 's/ *$//' "$drive/device/serial")" "$(cat "$drive/size")"
done
say unverified
cat /var/lib/metalserve/unverified 2>/dev/null
say template
cat /etc/metalserve/template.json 2>/dev/null
say boot-time
systemd-analyze time 2>/dev/null | head -n 1
say end
