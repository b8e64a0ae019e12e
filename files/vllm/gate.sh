#!/bin/sh
# May this engine start? A node that was proved since it was installed, driver, GPUs and their health, fabric, CDI devices, weights, port, free GPU memory; if not:
# why, and no start.
# Written by metalserve (roles/vllm). A refusal is one line that says what to do; systemd tries again later, a few times.
#
#   MS_GPUS      UUIDs of the engine's GPUs, commas between
#   MS_FABRIC    1 where the GPUs reach each other only through fabric manager
#   MS_DEVICES   CDI names of the engine's GPUs (their UUIDs), commas between, where the container gets them by CDI
#   MS_SPEC      the CDI specification; made anew when it does not name them
#   MS_WEIGHTS   1 to have the published weights compared with what was hashed: sizes, times, sampled blocks
#   MS_STORE     directory of the model, MOUNT/ORGANISATION--NAME
#   MS_REVISION  commit; the agent is told of both in MS_JOBS/ORGANISATION--NAME-REVISION12.json
#   MS_JOBS      directory of what the agent is told, unless it is the usual one
#   MS_MEMORY    0 skips the look at port, processes and memory: what is to be replaced still runs
#   MS_SHARE     share of the GPUs' memory that the engine will take, 0 to 1; empty: not looked at
#   MS_LISTEN    address and port that the engine will listen on (10.0.0.1 8000); empty: none
#   MS_RUNTIME   docker or podman
#   MS_PATIENCE  seconds to wait for a fabric that comes up, or for memory that is being freed
set -u
LC_ALL=C; export LC_ALL
LIBRARY=$(dirname "$0")
PATIENCE=${MS_PATIENCE:-120}

UNVERIFIED=${MS_UNVERIFIED:-/var/lib/metalserve/unverified}

refuse() { printf 'metalserve: engine not started: %s\n' "$*" >&2; exit 1; }

# verified: a node that was just made from a template starts nothing by itself. The run that reaches the engines has
# proved what comes before them, and takes the mark away (roles/vllm).
verified() {
  [ ! -e "$UNVERIFIED" ] ||
    refuse "this node was $(head -n 1 "$UNVERIFIED" 2>/dev/null | cut -c1-120) -> run deploys/gpu_node.py on it"
}

driver() {
  listed=$(timeout -k 5 60 nvidia-smi --query-gpu=index,uuid --format=csv,noheader 2>&1) ||
    refuse "the driver does not answer ($(printf '%s' "$listed" | grep -v '^ *$' | head -n 1)) -> run roles.nvidia_driver, or look at dmesg"
  for uuid in $(printf '%s' "$MS_GPUS" | tr , ' '); do
    case "$listed" in
      *"$uuid"*) ;;
      *) refuse "GPU $uuid is not there, nvidia-smi lists $(printf '%s\n' "$listed" | grep -c GPU-) -> see dmesg for Xid 79; reset or reboot, then run the deploy again" ;;
    esac
  done
}

# health: what the driver says against one of the GPUs. A reset that it asks for, or rows that wait for one, would give
# an engine that dies under load.
health() {
  wrong=$(timeout -k 5 60 nvidia-smi -q 2>/dev/null | awk -v want=",$MS_GPUS," '
    { value = $0; sub(/^[^:]*: */, "", value); sub(/ +$/, "", value) }
    /^GPU [0-9A-Fa-f]+:/ { mine = 0; rows = 0 }
    /GPU UUID/ { uuid = value; mine = index(want, "," uuid ",") }
    /^    [^ ]/ { rows = 0 }
    /^    Remapped Rows/ { rows = 1 }
    mine && /GPU Recovery Action/ && value != "None" && value !~ /N\/A/ { print uuid " asks for: " value }
    mine && rows && /^        Pending / && value == "Yes" { print uuid " has memory rows that wait for a reset to be remapped" }
    mine && rows && /Remapping Failure Occurred/ && value == "Yes" { print uuid " has a memory row that could not be remapped" }
  ' | head -n 1)
  [ -z "$wrong" ] || refuse "GPU $wrong -> reset it (nvidia-smi -r) or reboot; a failed remap: have the GPU replaced"
}

# fabric_state: a line a GPU, "UUID STATE/STATUS", of the GPUs of this engine whose fabric is not completed.
fabric_state() {
  timeout -k 5 60 nvidia-smi -q 2>/dev/null | awk -v want=",$MS_GPUS," '
    { value = $0; sub(/^[^:]*: */, "", value); sub(/ +$/, "", value) }
    /^GPU [0-9A-Fa-f]+:/ { uuid = ""; inside = 0 }
    /GPU UUID/ { uuid = value }
    /^    Fabric *$/ { inside = 1; state = ""; next }
    inside && /^        State / { state = value; next }
    inside && /^        Status / {
      inside = 0
      if (index(want, "," uuid ",") && !(state == "Completed" && value == "Success")) print uuid, state "/" value
    }'
}

fabric() {
  [ "${MS_FABRIC:-0}" = 1 ] || return 0
  until=$(($(date +%s) + PATIENCE))
  while :; do
    wrong=$(fabric_state)
    [ -n "$wrong" ] || return 0
    [ "$(date +%s)" -lt "$until" ] ||
      refuse "the NVLink fabric is not up: GPU $(printf '%s' "$wrong" | head -n 1), expected Completed/Success; nvidia-fabricmanager is $(systemctl is-active nvidia-fabricmanager.service 2>/dev/null || :) -> run roles.fabric_manager, read /var/log/fabricmanager.log"
    sleep 3
  done
}

named() {
  for index in $(printf '%s' "$MS_DEVICES" | tr , ' '); do
    grep -qE "^ *(- )?name: *[\"']?$index[\"']? *$" "$MS_SPEC" 2>/dev/null || return 1
  done
}

# The specification lies in memory. The toolkit's own unit makes it at boot, once; when that went wrong no engine would
# start until somebody came.
devices() {
  [ -n "${MS_DEVICES:-}" ] || return 0
  named && return 0
  run=${MS_RUN:-/run/metalserve}
  mkdir -p "$run" "$(dirname "$MS_SPEC")" && exec 8>>"$run/cdi" && flock -w 120 8 ||
    refuse "$run/cdi cannot be locked -> see what it says above"
  if ! named; then
    said=$(timeout -k 5 120 nvidia-ctk cdi generate --output="$run/nvidia.yaml" 2>&1) && mv -f "$run/nvidia.yaml" "$MS_SPEC" ||
      refuse "nvidia-ctk could not write the CDI specification ($(printf '%s\n' "$said" | tail -n 1)) -> run roles.container_runtime"
    printf 'metalserve: the CDI specification did not name GPU %s: made anew\n' "$MS_DEVICES"
  fi
  exec 8>&-
  named || refuse "the CDI specification does not name GPU $MS_DEVICES -> run roles.container_runtime"
}

weights() {
  [ "${MS_WEIGHTS:-0}" = 1 ] || return 0
  job=${MS_JOBS:-/etc/metalserve/weights}/${MS_STORE##*/}-$(printf '%.12s' "$MS_REVISION").json
  said=$(PYTHONPATH=$LIBRARY python3 -B -m msweights check --fast "$job" 2>&1 >/dev/null) ||
    refuse "$(printf '%s\n' "$said" | grep -v '^ *$' | tail -n 1)"
}

# port: nobody else listens where the engine will.
port() {
  [ -n "${MS_LISTEN:-}" ] && command -v ss >/dev/null 2>&1 || return 0
  until=$(($(date +%s) + (PATIENCE < 20 ? PATIENCE : 20)))
  while :; do
    taken=$(ss -Hltnp "sport = :${MS_LISTEN#* }" 2>/dev/null | awk -v here="${MS_LISTEN% *}" '
      { where = $4; sub(/:[0-9]+$/, "", where); gsub(/[][]|%.*/, "", where) }
      here == "0.0.0.0" || here == "::" || where == "*" || where == "0.0.0.0" || where == "::" || where == here {
        print $4 (match($0, /users:.*/) ? " by " substr($0, RSTART + 6, RLENGTH - 6) : ""); exit }')
    [ -n "$taken" ] || return 0
    [ "$(date +%s)" -lt "$until" ] ||
      refuse "port ${MS_LISTEN#* } is taken: $taken -> end that program, or give engine.port another number"
    sleep 2
  done
}

# owner PID: what a process belongs to, in words: a container, a unit, a command.
owner() {
  words=$(cat "/proc/$1/cmdline" 2>/dev/null | tr '\0' ' ' | cut -c1-80 | sed 's/ *$//')
  group=$(cat "/proc/$1/cgroup" 2>/dev/null)
  box=$(printf '%s\n' "$group" | grep -oE '(docker|libpod)[-/][0-9a-f]{64}' | head -n 1 | grep -oE '[0-9a-f]{64}' || :)
  unit=$(printf '%s\n' "$group" | grep -oE '[^/]+\.(service|scope)' | tail -n 1 || :)
  if [ -n "$box" ]; then
    name=$(timeout 10 "${MS_RUNTIME:-docker}" inspect --format '{{.Name}}' "$box" 2>/dev/null)
    printf 'container %s' "${name#/}"
  elif [ -n "$unit" ]; then printf '%s of %s' "${words:-a process}" "$unit"
  else printf '%s' "${words:-a process that is hidden from here}"; fi
}

# memory: nobody else is on the GPUs, and what the engine will take is free. An engine that was killed can leave workers
# behind that still hold all of it.
memory() {
  until=$(($(date +%s) + (PATIENCE < 30 ? PATIENCE : 30)))
  while :; do
    held=$(holders) || held="? nvidia-smi does not tell which processes are on the GPUs -> see what it says: nvidia-smi"
    [ -n "$held" ] || return 0
    if [ "$(date +%s)" -ge "$until" ]; then refuse "${held#? }"; fi
    sleep 3
  done
}

# holders: the first reason why the GPUs are not free, nothing when they are.
holders() {
  apps=$(timeout -k 5 60 nvidia-smi --query-compute-apps=gpu_uuid,pid,used_memory --format=csv,noheader 2>/dev/null) || return 1
  for uuid in $(printf '%s' "$MS_GPUS" | tr , ' '); do
    line=$(printf '%s\n' "$apps" | grep -F "$uuid" | head -n 1)
    [ -n "$line" ] || continue
    pid=$(printf '%s\n' "$line" | awk -F', *' '{print $2}')
    printf '! another process holds memory of its GPUs: %s (%s) -> end it, or give the engine other GPUs\n' "$line" "$(owner "$pid")"
    return 0
  done
  [ -n "${MS_SHARE:-}" ] || return 0
  used=$(timeout -k 5 60 nvidia-smi --query-gpu=uuid,memory.used,memory.total --format=csv,noheader,nounits 2>/dev/null) || return 1
  printf '%s\n' "$used" | awk -F', *' -v want=",$MS_GPUS," -v share="$MS_SHARE" '
    index(want, "," $1 ",") && $3 > 0 && $2 > $3 * (1 - share) {
      printf "! %d of %d MiB of GPU %s are in use by nobody that nvidia-smi names, and the engine will take %d -> ", $2, $3, $1, $3 * share
      print "look for processes in other containers or virtual machines (fuser -v /dev/nvidia*), then reset the GPU"; exit }'
}

verified
driver
health
fabric
devices
weights
if [ "${MS_MEMORY:-1}" = 1 ]; then
  port
  memory
  # Last: the others of a group are waited for when all is well here.
  if [ -n "${MS_RANK:-}" ]; then
    . "$LIBRARY/engine-group"
    group_gate
  fi
fi
