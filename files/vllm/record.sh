#!/bin/sh
# An engine has answered: keep the unit that it was started from, and what its log said of the start.
# Written by metalserve (roles/vllm); the unit runs it after the probe, with its own environment.
#
#   record.sh NUMBER
#
#   MS_ID       what the unit file says that it is; a file that was changed since then is not what answered
#   MS_RUNTIME  docker or podman
#   MS_MODELS MS_IMAGE MS_FORMAT   weights' directory, image and load format, for the history of starts
set -u
LC_ALL=C; export LC_ALL
umask 077
number=$1
name=metalserve-vllm-$number
ROOT=${MS_ROOT:-}
PROVEN=$ROOT/var/lib/metalserve/engines
LAUNCHES=$ROOT/var/lib/metalserve/launch
HISTORY=$ROOT/var/lib/metalserve/loads.jsonl
LOADS=$ROOT/run/metalserve/loads
KEPT=200   # starts that the history keeps
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

# moment PROPERTY: the unit's time stamp, microseconds since boot.
moment() { systemctl show -p "$1" --value "$name.service" 2>/dev/null; }

seconds= gate=
began=$(moment InactiveExitTimestampMonotonic)
if [ -n "$began" ] && [ -r /proc/uptime ]; then
  seconds=$(awk -v began="$began" '{ printf "%.1f", $1 - began / 1000000 }' /proc/uptime)
  gate=$(moment ExecMainStartTimestampMonotonic | awk -v began="$began" '$1 >= began { printf "%.1f", ($1 - began) / 1000000 }')
fi
log=$("${MS_RUNTIME:-docker}" logs "$name" 2>&1 | head -n 20000 | grep -E "$WORDS" | cut -c1-600 | head -n 400)
lines=$(printf '%s\n' "$log" | grep . | json)
{
  printf '{"schema": 1, "replica": %s, "unit": %s, "model": %s, "gpus": %s, "at": "%s", "ready_after_s": %s, "lines": [%s]}\n' \
    "$number" "$(value "${MS_ID:-}")" "$(value "${MS_MODEL:-}")" "$(value "${MS_GPUS:-}")" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
    "${seconds:-null}" "$lines"
} >"$LAUNCHES/.$number.new" && chmod 0644 "$LAUNCHES/.$number.new" && mv -f "$LAUNCHES/.$number.new" "$LAUNCHES/$number.json"

# The history: a line a start, with the lines that tell times; the newest stay. `metalserve weights loads` reads it.
TIMES='Loading weights took|Model loading took|torch\.compile (took|takes)|Graph capturing finished|init engine'
read_bytes=
device=$(findmnt -n -o MAJ:MIN --target "${MS_MODELS:-/}" 2>/dev/null | tr -d ' ')
if [ -s "$LOADS/$number.sectors" ]; then   # of 512 bytes, whatever the drive's own are
  read_bytes=$(awk -v before="$(cat "$LOADS/$number.sectors")" '$3 >= before { printf "%.0f", ($3 - before) * 512 }' \
    "$ROOT/sys/dev/block/${device:-none}/stat" 2>/dev/null)
fi
revision=${MS_MODELS:-} weights=
if [ -d "${MS_MODELS:-}" ]; then
  weights=$(find -L "$MS_MODELS" -maxdepth 1 -name '*.safetensors' -type f -printf '%s\n' | awk '{ n += $1 } END { if (n) printf "%.0f", n }')
fi
warmed=$(awk '{ print $1 }' "$LOADS/$number.warmed" 2>/dev/null)
times=$(printf '%s\n' "$log" | grep -E "$TIMES" | sed -E 's/^.*\.py:[0-9]+\] //' | cut -c1-160 | sort -u | tail -n 64 | json)
exec 7>>"$HISTORY.lock" && flock -w 20 7 || exit 0   # engines that start side by side
{
  tail -n "$((KEPT - 1))" "$HISTORY" 2>/dev/null
  printf '{"schema": 1, "replica": %s, "model": %s, "revision": %s, "image": %s, "gpus": %s, "format": %s, "at": "%s", "ready_after_s": %s, "gate_s": %s, "weights_bytes": %s, "read_bytes": %s, "warmed_bytes": %s, "lines": [%s]}\n' \
    "$number" "$(value "${MS_MODEL:-}")" "$(value "${revision##*/}")" "$(value "${MS_IMAGE:-}")" "$(value "${MS_GPUS:-}")" \
    "$(value "${MS_FORMAT:-auto}")" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "${seconds:-null}" "${gate:-null}" \
    "${weights:-null}" "${read_bytes:-null}" "${warmed:-null}" "$times"
} >"$HISTORY.new" && chmod 0644 "$HISTORY.new" && mv -f "$HISTORY.new" "$HISTORY"
