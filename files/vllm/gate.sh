#!/bin/sh
# May this engine start? Driver, GPUs, fabric, CDI devices, weights, free GPU memory; if not: why, and no start.
# Written by metalserve (roles/vllm). A refusal is one line that says what to do; systemd tries again later, a few times.
#
#   MS_GPUS      UUIDs of the engine's GPUs, commas between
#   MS_FABRIC    1 where the GPUs reach each other only through fabric manager
#   MS_DEVICES   indexes of the engine's GPUs, commas between, where Docker gets them by CDI
#   MS_SPEC      the CDI specification; made anew when it does not name them
#   MS_WEIGHTS   1 to have the published weights compared with what was hashed (MS_STORE, MS_REVISION, MS_LIST are set then)
#   MS_MEMORY    0 skips the look at other processes on the GPUs
#   MS_PATIENCE  seconds to wait for a fabric that comes up, or for memory that is being freed
set -u
LC_ALL=C; export LC_ALL
LIBRARY=$(dirname "$0")
PATIENCE=${MS_PATIENCE:-120}

refuse() { printf 'metalserve: engine not started: %s\n' "$*" >&2; exit 1; }

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
  said=$("$LIBRARY/stage-weights" --check 2>&1) || refuse "$said"
}

# An engine that was killed can leave workers behind that still hold the GPU's memory.
memory() {
  [ "${MS_MEMORY:-1}" = 1 ] || return 0
  until=$(($(date +%s) + (PATIENCE < 30 ? PATIENCE : 30)))
  while :; do
    apps=$(timeout -k 5 60 nvidia-smi --query-compute-apps=gpu_uuid,pid,used_memory --format=csv,noheader 2>/dev/null) || return 0
    held=""
    for uuid in $(printf '%s' "$MS_GPUS" | tr , ' '); do
      held="$held$(printf '%s\n' "$apps" | grep -F "$uuid" || :)"
    done
    [ -n "$held" ] || return 0
    [ "$(date +%s)" -lt "$until" ] ||
      refuse "another process holds memory of its GPUs: $(printf '%s' "$held" | head -n 1) -> end it (ps -fp PID), or give the engine other GPUs"
    sleep 3
  done
}

driver
fabric
devices
weights
memory
