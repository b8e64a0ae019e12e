#!/bin/sh
# What a node made from a template gives itself before anything asks who it is. Safe to run at every boot.
# Written by metalserve into the template.
set -eu
ROOT=${MS_ROOT:-}
GROW=${MS_GROW:-no}

# An NVMe host that has another's name takes its connections: packages make both when the image is built.
name_nvme_host() {
  [ -d "$ROOT/etc/nvme" ] || return 0
  if [ ! -s "$ROOT/etc/nvme/hostid" ] || [ ! -s "$ROOT/etc/nvme/hostnqn" ]; then
    # random, not the board's: some boards all have the same
    uuid=$(cat "$ROOT/proc/sys/kernel/random/uuid")
    printf '%s\n' "$uuid" >"$ROOT/etc/nvme/hostid"
    printf 'nqn.2014-08.org.nvmexpress:uuid:%s\n' "$uuid" >"$ROOT/etc/nvme/hostnqn"
    printf 'metalserve: NVMe host is %s\n' "$uuid"
  fi
}

# Where cloud-init does it, it is not done here.
grow_root() {
  [ "$GROW" = yes ] || return 0
  device=$(findmnt -nvo SOURCE /)
  disk=$(lsblk -ndo PKNAME "$device")
  part=$(cat "/sys/class/block/${device##*/}/partition")
  # status 1 is "it has all there is"
  growpart "/dev/$disk" "$part" || [ $? = 1 ]
  case $(findmnt -no FSTYPE /) in
    ext4) resize2fs "$device" ;;
    xfs) xfs_growfs / ;;
  esac
}

name_nvme_host
grow_root
