#!/bin/sh
# STAND-IN for the metalserve lab: what dkms does when a package with a module is configured.
set -eu
dkms add -m "$1" -v "$2"
kernel=$(uname -r)
if [ ! -e "/lib/modules/$kernel/build" ]; then
  echo "Module build for kernel $kernel was skipped since the" \
    "kernel headers for this kernel do not seem to be installed." >&2
  exit 0
fi
dkms install -m "$1" -v "$2" -k "$kernel"
