#!/bin/sh
# STAND-IN for the metalserve lab: what dkms does when a kernel is installed. Like the real hook it only warns where
# the headers are missing, and the installation of the kernel succeeds.
set -eu
if [ ! -e "/lib/modules/$1/build" ]; then
  echo "dkms: WARNING: Linux headers are missing, which may explain the above failures." >&2
  echo "      please install the linux-headers-$1 package to fix this." >&2
  exit 0
fi
dkms autoinstall -k "$1" || true
