#!/bin/sh
# Time the compiling of the driver's kernel modules alone, by the command that DKMS gives, on any machine.
#
#   sudo sh bench/templates/modules.sh ROOT JOBS...      one line of JSON for each number of JOBS
#
# ROOT is a root file system with the driver's source (/usr/src/nvidia-*), the kernel's headers and Debian's compiler:
# the packages that debian-13-l40s installs, unpacked by `dpkg-deb -x` where nothing can be installed.
set -eu
root=$1
shift
source=$(ls -d "$root"/usr/src/nvidia-*)
kernel=$(basename "$(dirname "$(ls -d "$root"/lib/modules/*/build)")")
[ -e "$root/dev/null" ] || { mkdir -p "$root/dev"; mknod -m 666 "$root/dev/null" c 1 3; }
for jobs in "$@"; do
  rm -rf "$root/tmp/modules"
  mkdir -p "$root/tmp"
  cp -a "$source" "$root/tmp/modules"
  began=$(date +%s.%N)
  chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/ NV_VERBOSE=1 \
    make -C /tmp/modules -j"$jobs" modules KERNEL_UNAME="$kernel" >"$root/tmp/make.log" 2>&1
  ended=$(date +%s.%N)
  processor=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)
  seconds=$(awk -v s="$began" -v e="$ended" 'BEGIN { printf "%.1f", e - s }')
  made=$(find "$root/tmp/modules" -maxdepth 1 -name '*.ko' | wc -l)
  printf '{"source": "%s", "kernel": "%s", "modules": %d, "processor": "%s", "cpus": %d, "jobs": %d, "seconds": %s}\n' \
    "${source##*/}" "$kernel" "$made" "$processor" "$(nproc)" "$jobs" "$seconds"
done
