#!/bin/sh
# metalserve lab: put the simulated tools into a root file system. Usage: install.sh [ROOT [only-gpus]] (default: /)
# The tools themselves live in /opt/metalserve-lab, which each host binds from its own simulation directory.
# only-gpus: the host is a machine with a kernel, drives and a udev of its own, whose tools for those stay as they are.
set -eu
root=${1:-/}
only=${2:-}
root=${root%/}
real=/usr/metalserve-lab
mkdir -p "$root$real" "$root/etc/systemd/system" "$root/usr/bin" "$root/usr/sbin"

# Where a package puts a tool, spelled as the package spells it: a diversion of /usr/sbin/modprobe does not
# catch /sbin/modprobe of Debian 12, although they are the same file.
owned() {
  for list in "$root"/var/lib/dpkg/info/"$1".list "$root"/var/lib/dpkg/info/"$1":*.list; do
    if [ -f "$list" ] && grep -E "^(/usr)?/s?bin/$2\$" "$list"; then return; fi
  done
  echo "$3"
}

divert() { # package tool default-path
  for path in $(owned "$1" "$2" "$3"); do
    target=$real/$2
    [ -e "$root$target" ] || [ -L "$root$target" ] && target=$real/$2.$(echo "$path" | tr / _)
    dpkg-divert --root="$root/" --local --quiet --rename --divert "$target" --add "$path"
    rm -f "$root$path"
    cat >"$root$path" <<WRAPPER
#!/bin/sh
# metalserve lab: answers for simulated hardware, hands everything else to the real tool
[ -x /opt/metalserve-lab/bin/$2 ] && exec /opt/metalserve-lab/bin/$2 "\$@"
[ -x $target ] && exec $target "\$@"
echo "$2: not installed" >&2
exit 127
WRAPPER
    chmod 755 "$root$path"
  done
}

divert pciutils lspci /usr/bin/lspci
divert util-linux dmesg /usr/bin/dmesg
for tool in rmmod modinfo; do divert kmod $tool /usr/sbin/$tool; done
divert kmod lsmod /usr/bin/lsmod
after=metalserve-lab-prepare.service
# As with udev, links to drives are there before anything is mounted through them.
before="local-fs-pre.target sysinit.target shutdown.target"
if [ -z "$only" ]; then
  divert nvme-cli nvme /usr/sbin/nvme
  divert udev udevadm /usr/bin/udevadm
  divert kmod modprobe /usr/sbin/modprobe
else
  # The initial RAM disk has udevadm and modprobe in it: they stay. The real modprobe (and systemd's, which is none)
  # runs a command for a module instead of loading it, but not for one with a softdep: the file hides the driver
  # package's own of this name, whose softdep it takes over.
  mkdir -p "$root/etc/modprobe.d"
  {
    echo "# metalserve lab: simulated modules; in the place of the driver package's file of this name"
    echo "install nvidia /opt/metalserve-lab/bin/modprobe -a nvidia nvidia_uvm nvidia_drm"
    for module in nvidia_uvm nvidia_modeset nvidia_drm nvidia_peermem; do
      echo "install $module /opt/metalserve-lab/bin/modprobe $module"
    done
    for module in nvidia nvidia_uvm nvidia_modeset nvidia_drm nvidia_peermem; do
      echo "remove $module /opt/metalserve-lab/bin/modprobe -r $module"
    done
  } >"$root/etc/modprobe.d/nvidia.conf"
  # the root is read-only until then, and udev's first pass needs the machine's own PCI devices
  after="systemd-remount-fs.service systemd-udev-trigger.service"
  before="systemd-modules-load.service sysinit.target shutdown.target"
fi

cat >"$root/etc/systemd/system/metalserve-lab-sim.service" <<UNIT
[Unit]
Description=metalserve lab: simulated hardware comes up
DefaultDependencies=no
After=$after systemd-tmpfiles-setup-dev.service
${only:+#}Wants=local-fs-pre.target
Before=$before
Conflicts=shutdown.target
ConditionPathExists=/opt/metalserve-lab/profile.json

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/opt/metalserve-lab/bin/boot

[Install]
WantedBy=sysinit.target
UNIT

cat >"$root/etc/systemd/system/metalserve-lab-watch.service" <<'UNIT'
[Unit]
Description=metalserve lab: faults and disk links of the simulated hardware
After=metalserve-lab-sim.service
ConditionPathExists=/opt/metalserve-lab/profile.json

[Service]
ExecStart=/opt/metalserve-lab/bin/watch
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target
UNIT

mkdir -p "$root/etc/systemd/system/sysinit.target.wants" "$root/etc/systemd/system/multi-user.target.wants"
ln -sf /etc/systemd/system/metalserve-lab-sim.service "$root/etc/systemd/system/sysinit.target.wants/"
ln -sf /etc/systemd/system/metalserve-lab-watch.service "$root/etc/systemd/system/multi-user.target.wants/"
