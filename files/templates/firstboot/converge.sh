#!/bin/sh
# Pull mode: the node converges itself, once, from a checkout of metalserve or a bundle of one.
# Written by metalserve into the template. Told by /etc/metalserve/converge (NAME=VALUE lines, given by cloud-init):
#
#   MS_SOURCE         directory of a checkout; or
#   MS_BUNDLE         URL or path of a tar archive of one, and
#   MS_BUNDLE_SHA256  what it must hash to
#   MS_DEPLOY         which deploy; deploys/gpu_node.py unless given
#
# /etc/metalserve/node.json has the host's data, as an inventory would.
set -eu
ROOT=${MS_ROOT:-}
NODE=$ROOT/etc/metalserve/node.json
DONE=$ROOT/var/lib/metalserve/converged

fail() { printf 'metalserve: not converged: %s\n' "$*" >&2; exit 1; }

bundle() {
  case ${MS_BUNDLE_SHA256:-} in
    '' | *[!0-9a-f]*) fail "MS_BUNDLE_SHA256 is missing -> a bundle runs as root, its hash must be named" ;;
  esac
  MS_SOURCE=$ROOT/opt/metalserve/$(printf '%.12s' "$MS_BUNDLE_SHA256")
  [ ! -d "$MS_SOURCE" ] || return 0
  mkdir -p "$ROOT/opt/metalserve"
  archive=$ROOT/opt/metalserve/.bundle
  case $MS_BUNDLE in
    http://* | https://*) curl -sSfL --retry 5 --retry-connrefused -o "$archive" "$MS_BUNDLE" || fail "$MS_BUNDLE cannot be fetched" ;;
    *) cp "$MS_BUNDLE" "$archive" || fail "$MS_BUNDLE cannot be read" ;;
  esac
  found=$(sha256sum "$archive" | cut -d' ' -f1)
  [ "$found" = "$MS_BUNDLE_SHA256" ] || fail "$MS_BUNDLE has SHA-256 $found, not $MS_BUNDLE_SHA256"
  rm -rf "$MS_SOURCE.new"
  mkdir "$MS_SOURCE.new"
  tar -xf "$archive" -C "$MS_SOURCE.new" --no-same-owner || fail "$MS_BUNDLE is no tar archive"
  rm -f "$archive"
  mv "$MS_SOURCE.new" "$MS_SOURCE"
}

[ -z "${MS_BUNDLE:-}" ] || bundle
[ -d "${MS_SOURCE:-}" ] || fail "neither MS_SOURCE nor MS_BUNDLE names a checkout -> see /etc/metalserve/converge"
[ -r "$NODE" ] || fail "$NODE is not there -> give the host's data, as JSON"
pyinfra=$MS_SOURCE/.venv/bin/pyinfra
[ -x "$pyinfra" ] || pyinfra=$(command -v pyinfra) || fail "pyinfra is neither in $MS_SOURCE/.venv nor installed"

run=$ROOT/run/metalserve/converge
mkdir -p "$run" "$ROOT/var/lib/metalserve"
printf 'import json\n\nhosts = [("@local", json.load(open("%s")))]\n' "$NODE" >"$run/inventory.py"
cd "$MS_SOURCE"
PYTHONPATH=$MS_SOURCE "$pyinfra" -y "$run/inventory.py" "${MS_DEPLOY:-deploys/gpu_node.py}" || fail "pyinfra ended with $? -> journalctl -u metalserve-converge"
date -u +%Y-%m-%dT%H:%M:%SZ >"$DONE"
