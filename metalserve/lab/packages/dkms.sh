#!/bin/sh
# STAND-IN for the metalserve lab: the part of dkms that the driver packages use, for the module nvidia only.
# "Building" writes a text file that the lab's modinfo and modprobe read.
set -eu
tree=/var/lib/dkms
module= version= kernel= all=
command=${1:-}
[ $# -gt 0 ] && shift
while [ $# -gt 0 ]; do
  case $1 in
  -m) module=$2; shift ;;
  -v) version=$2; shift ;;
  -k) kernel=$2; shift ;;
  --all) all=1 ;;
  */*) module=${1%%/*}; version=${1#*/} ;;
  esac
  shift
done
: "${kernel:=$(uname -r)}"
arch=$(uname -m)

build() { # module version kernel
  conf=/usr/src/$1-$2/dkms.conf
  [ -f "$conf" ] || { echo "Error! Could not locate dkms.conf file." >&2; exit 4; }
  if [ ! -e "/lib/modules/$3/build" ]; then
    echo "Error! Your kernel headers for kernel $3 cannot be found at" \
      "/lib/modules/$3/build or /lib/modules/$3/source." >&2
    echo "Please install the linux-headers-$3 package or use the --kernelsourcedir option to tell DKMS" \
      "where it's located." >&2
    return 21
  fi
  # The fault driver-fails-to-build of the lab: only the version that was loaded when it began can be built.
  fault='"driver-fails-to-build": {"spared": "'
  if grep -qs "$fault" /opt/metalserve-lab/state/applied.json &&
    ! grep -qs "$fault$2\"" /opt/metalserve-lab/state/applied.json; then
    echo "Error! Bad return status for module build on kernel: $3 ($arch)" >&2
    echo "Consult $tree/$1/$2/build/make.log for more information." >&2
    exit 10
  fi
  METALSERVE_FLAVOUR= METALSERVE_LICENSE=
  . "$conf"
  place=/lib/modules/$3/updates/dkms
  mkdir -p "$place" "$tree/$1/$2/$3/$arch"
  for name in nvidia nvidia-uvm nvidia-modeset nvidia-drm nvidia-peermem; do
    {
      echo "STAND-IN for the metalserve lab, not a kernel module"
      echo "name: $(echo $name | tr - _)"
      echo "version: $2"
      echo "flavour: $METALSERVE_FLAVOUR"
      echo "license: $METALSERVE_LICENSE"
      echo "vermagic: $3 SMP preempt mod_unload"
    } >"$place/$name.ko.new"
    mv "$place/$name.ko.new" "$place/$name.ko"
  done
  echo "$1/$2, $3, $arch: installed (stand-in)"
}

status() {
  for directory in "$tree"/*/*; do
    [ -d "$directory" ] || continue
    name=${directory#"$tree"/}
    if [ ! -f "/usr/src/$(echo "$name" | tr / -)/dkms.conf" ]; then
      echo "$name: broken"
      echo "Error! $name: Missing the module source directory or the symbolic link pointing to it." >&2
      continue
    fi
    found=
    for built in "$directory"/*/*; do
      [ -d "$built" ] || continue
      found=1
      place=${built#"$directory"/}
      state=installed
      [ -e "/lib/modules/${place%%/*}/updates/dkms/nvidia.ko" ] || state=built
      echo "$name, ${place%%/*}, ${place#*/}: $state"
    done
    [ -n "$found" ] || echo "$name: added"
  done
}

case $command in
add) mkdir -p "$tree/$module/$version" ;;
build) [ -d "/usr/src/$module-$version" ] ;;
install) mkdir -p "$tree/$module/$version"; build "$module" "$version" "$kernel" ;;
remove)
  [ -d "$tree/$module/$version" ] || exit 0
  for built in "$tree/$module/$version"/*/; do
    [ -d "$built" ] && rm -f "/lib/modules/$(basename "$built")"/updates/dkms/nvidia*.ko
  done
  rm -rf "${tree:?}/$module/$version" ;;
autoinstall)
  for directory in "$tree"/*/*; do
    [ -d "$directory" ] || continue
    name=${directory#"$tree"/}
    [ -e "/lib/modules/$kernel/updates/dkms/nvidia.ko" ] && [ -d "$directory/$kernel" ] ||
      build "${name%%/*}" "${name#*/}" "$kernel"
  done ;;
status) status ;;
--version) echo "dkms-3.2.2 (STAND-IN for the metalserve lab)" ;;
*) echo "dkms $command: not simulated in the metalserve lab" >&2; exit 2 ;;
esac
