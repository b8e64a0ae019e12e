#!/bin/sh
# An engine has answered: keep the unit that it was started from, and what its log said of the start.
# Written by metalserve (roles/vllm); the unit runs it after the probe, with its own environment.
#
#   record.sh NUMBER
#
#   MS_ID       what the unit file says that it is; a file that was changed since then is not what answered
#   MS_RUNTIME  docker or podman
set -u
LC_ALL=C; export LC_ALL
umask 077
number=$1
name=metalserve-vllm-$number
ROOT=${MS_ROOT:-}
PROVEN=$ROOT/var/lib/metalserve/engines
LAUNCHES=$ROOT/var/lib/metalserve/launch
ETC=$ROOT/etc

# keep FILE: a copy of it among what is proved, whole or not at all.
keep() {
  cp -p "$1" "$PROVEN/.new-$number" && mv -f "$PROVEN/.new-$number" "$PROVEN/${1##*/}"
}

# What the plan counts on, in the words of vLLM's start-up log. Not the arguments: what users add to them is theirs.
WORDS='Resolved architecture|Using max model len|LLM engine \(v|world_size=|Loading weights took|Model loading took|torch\.compile|Available KV cache memory|GPU KV cache size|Maximum concurrency|# GPU blocks|Graph capturing finished|CUDA graph|all-?reduce|init engine|Free memory on device|Using .* backend|vLLM is using nccl|API server version|kv_cache_memory'

# json: standard input as the lines of a JSON list.
json() {
  tr -d '\000-\010\013-\037\177' | tr '\t' ' ' | sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/"&"/' | paste -sd, -
}

value() { printf '%s\n' "$1" | json; }

mkdir -p "$PROVEN" "$LAUNCHES" && chmod 0755 "$LAUNCHES" || exit 1

for unit in "$ETC/systemd/system/$name.service" "$ETC/containers/systemd/$name.container"; do
  grep -qsF "MS_ID=${MS_ID:-none}" "$unit" || continue
  keep "$unit"
  for file in engine.env engine-auth; do
    if [ -f "$ETC/metalserve/$file" ]; then keep "$ETC/metalserve/$file"; else rm -f "$PROVEN/$file"; fi
  done
done

seconds=
began=$(systemctl show -p InactiveExitTimestampMonotonic --value "$name.service" 2>/dev/null)
if [ -n "$began" ] && [ -r /proc/uptime ]; then
  seconds=$(awk -v began="$began" '{ printf "%.1f", $1 - began / 1000000 }' /proc/uptime)
fi
lines=$("${MS_RUNTIME:-docker}" logs "$name" 2>&1 | head -n 20000 | grep -E "$WORDS" | cut -c1-600 | head -n 400 | json)
{
  printf '{"schema": 1, "replica": %s, "unit": %s, "model": %s, "gpus": %s, "at": "%s", "ready_after_s": %s, "lines": [%s]}\n' \
    "$number" "$(value "${MS_ID:-}")" "$(value "${MS_MODEL:-}")" "$(value "${MS_GPUS:-}")" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
    "${seconds:-null}" "$lines"
} >"$LAUNCHES/.$number.new" && chmod 0644 "$LAUNCHES/.$number.new" && mv -f "$LAUNCHES/.$number.new" "$LAUNCHES/$number.json"
