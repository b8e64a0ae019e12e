#!/bin/sh
# Runs libvirt and sushy-emulator in the tree ROOT, in namespaces of their own: ended with the process that runs this.
# start.sh ROOT PORT
set -e
root=$1 port=$2
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
exec chroot "$root" sh -s "$port" <<'INSIDE'
set -e
port=$1
state=/srv/bmc
mkdir -p /run/lock /run/libvirt "$state/pool" "$state/emulator"
cat > /etc/libvirt/qemu.conf <<'CONF'
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
CONF
rm -rf /etc/libvirt/storage /etc/libvirt/qemu  # of the run before
virtlogd > "$state/virtlogd.log" 2>&1 &
libvirtd > "$state/libvirtd.log" 2>&1 &
until virsh -c qemu:///system version > "$state/virsh.log" 2>&1; do sleep 0.2; done
virsh -c qemu:///system pool-define-as default dir --target "$state/pool"
virsh -c qemu:///system pool-start default
virsh -c qemu:///system define "$state/machine.xml"
cat > "$state/emulator.conf" <<CONF
SUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'
SUSHY_EMULATOR_LISTEN_PORT = $port
SUSHY_EMULATOR_SSL_CERT = '$state/server.pem'
SUSHY_EMULATOR_SSL_KEY = '$state/server.pem'
SUSHY_EMULATOR_LIBVIRT_URI = 'qemu:///system'
SUSHY_EMULATOR_IGNORE_BOOT_DEVICE = False
SUSHY_EMULATOR_VMEDIA_VERIFY_SSL = False
SUSHY_EMULATOR_STATE_DIR = '$state/emulator'
SUSHY_EMULATOR_BOOT_LOADER_MAP = {
    'UEFI': {'x86_64': '/usr/share/OVMF/OVMF_CODE_4M.fd'}, 'Legacy': {'x86_64': None},
}
CONF
PYTHONPATH=/opt/sushy exec python3 -m sushy_tools.emulator.main --config "$state/emulator.conf"
INSIDE
