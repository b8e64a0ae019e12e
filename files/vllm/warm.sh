#!/bin/sh
# The engine's container starts: note what the models' drive has read so far, and read the weights ahead into the page
# cache where memory allows. Importing Python and joining processes take vLLM 10 to 20 s, in which the drive would idle.
# Written by metalserve (roles/vllm); the unit runs it beside the container, before the probe.
#
#   warm.sh NUMBER
#
#   MS_MODELS    directory of the published weights
#   MS_CACHE     auto, or off: only the note
#   MS_GPUS      the engine's GPUs, commas between
#   MS_RESERVE_MIB  memory that must stay available, for tests; else counted
set -u
LC_ALL=C; export LC_ALL
number=$1
ROOT=${MS_ROOT:-}
LOADS=$ROOT/run/metalserve/loads
LIMIT=240   # seconds; the unit's own time limit leaves as much for the gate, which seldom needs it
READERS=8   # one waits for its copy between two requests; eight gave 2.4 GB/s where one gave 2.2 (drive of 2.4, 2026-11-25)

say() { printf 'metalserve: weights not read ahead: %s\n' "$*"; exit 0; }

mkdir -p "$LOADS" || exit 0
rm -f "$LOADS/$number.warmed"
device=$(findmnt -n -o MAJ:MIN --target "$MS_MODELS" 2>/dev/null | tr -d ' ')
awk '{ print $3 }' "$ROOT/sys/dev/block/${device:-none}/stat" 2>/dev/null >"$LOADS/$number.sectors" || rm -f "$LOADS/$number.sectors"

[ "${MS_CACHE:-off}" = auto ] || exit 0
bytes=$(find -L "$MS_MODELS" -maxdepth 1 -name '*.safetensors' -type f -printf '%s\n' | awk '{ n += $1 } END { printf "%.0f", n }')
[ "${bytes:-0}" -gt 0 ] || say "there is no safetensors file"
# An engine's own processes: some 1.5 GiB, and 2 GiB a GPU (measured on CPU: 1.3 and 1.7); doubled for buffers.
gpus=$(printf '%s' "${MS_GPUS:-}" | awk -F, '{ print NF }')
reserve=$((${MS_RESERVE_MIB:-$((4096 + 4096 * ${gpus:-0}))} * 1048576))
available=$(awk '/^MemAvailable:/ { printf "%.0f", $2 * 1024 }' "$ROOT/proc/meminfo" 2>/dev/null)
[ "${available:-0}" -gt $((bytes + reserve)) ] ||
  say "$((${available:-0} / 1048576)) MiB of memory are available, $(((bytes + reserve) / 1048576)) are needed"
# One of the engines that start side by side reads for all of them.
exec 9>"$LOADS/$(printf '%s' "$MS_MODELS" | tr -c 'A-Za-z0-9' _).lock" && flock -n 9 || exit 0

began=$(awk '{ print $1 }' /proc/uptime)
find -L "$MS_MODELS" -maxdepth 1 -name '*.safetensors' -type f -print0 | sort -z |
  timeout "$LIMIT" xargs -0 -P "$READERS" -I '{}' dd if='{}' of=/dev/null bs=4M status=none || exit 0
seconds=$(awk -v began="$began" '{ printf "%.2f", $1 - began }' /proc/uptime)
printf '%s %s\n' "$bytes" "$seconds" >"$LOADS/$number.warmed"
printf 'metalserve: %s MiB of weights read ahead in %s s\n' "$((bytes / 1048576))" "$seconds"
