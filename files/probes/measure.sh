# Measures this host by the probes beside this file. POSIX sh, run as root from /run/metalserve/measure.
#
#   start              begin a measurement as ./params says, as a unit of its own that outlives the connection
#   follow SECONDS     say how far it is, every second until it ends or SECONDS have passed
#   result             print what was measured, one section a file
#   run, after         what the unit itself calls: the measurement, and what must happen however it ended
#
# ./params sets: MS_IMAGE (the vLLM image), MS_GPU_OPTIONS (docker's options that hand the GPUs out), MS_SECONDS (of the
# soak), MS_DEPTH, MS_DCGM (level or 0), MS_MOUNT (where the models lie), MS_STOP_ENGINES (1: stop them meanwhile),
# MS_LIMIT_C, MS_NVLS (on, off, leave), MS_STORAGE_SECONDS.
LC_ALL=C
PATH=${MS_PATH:+$MS_PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
PLACE=${MS_PLACE:-/run/metalserve/measure}
LOCK=${MS_RUN:-/run/metalserve}
UNIT=metalserve-measure
CONTAINER=metalserve-measure
OUT=$PLACE/out
umask 022
cd "$PLACE" || exit 1

say() { printf '%s\n' "$*"; }
put() { cat >"$1.new" && mv -f "$1.new" "$1"; }
phase() { printf '%s %s\n' "$(date +%s)" "$1" | put phase; say "phase $1"; }
active() { case $(systemctl is-active $UNIT.service) in active | activating | deactivating) true ;; *) false ;; esac; }
fail() { printf '%s\n' "$1" | put failed; say "failed: $1"; exit 1; }

# start: nothing is begun while one runs, and one that ended unread for the same parameters is not done again.
start() {
  if active; then say "@@measure attached"; cat running 2>/dev/null; return 0; fi
  if [ -e ended ] && [ ! -e read ] && [ ! -e failed ] && cmp -s params running; then say "@@measure ended"; return 0; fi
  rm -rf out; rm -f ended failed read phase progress.json stop
  mkdir -p out
  cp params running
  systemctl reset-failed $UNIT.service 2>/dev/null
  systemd-run --quiet --unit $UNIT --description "metalserve: measurement of this host" --collect \
    -p KillMode=mixed -p TimeoutStopSec=90 -p "ExecStopPost=/bin/sh $PLACE/measure.sh after" \
    /bin/sh "$PLACE/measure.sh" run || {
    active && { say "@@measure attached"; return 0; } # another controller was quicker
    exit 1
  }
  say "@@measure started"
}

follow() {
  left=$1
  while active && [ "$left" -gt 0 ]; do sleep 1; left=$((left - 1)); done
  # What the unit leaves behind (engines that start again) belongs to it: only then it has ended.
  if active; then say "@@measure running"; else say "@@measure ended"; fi
  [ -e phase ] && sed 's/^/@@phase /' phase
  [ -e progress.json ] && sed 's/^/@@progress /' progress.json
  [ -e failed ] && sed 's/^/@@failed /' failed
  :
}

result() {
  for file in out/*.json; do
    [ -e "$file" ] || continue
    name=${file##*/}
    printf '\n@@ms:%s\n' "${name%.json}"
    cat "$file"
  done
  printf '\n@@ms:failed\n'
  cat failed 2>/dev/null
  printf '\n@@ms:running\n'
  cat running 2>/dev/null
  printf '\n@@ms:end\n'
  : >read
}

# probe NAME ARGS...: one probe in a container of the engine's image, without a network. An image that brings its own
# probes (the lab's stand-in) says so by METALSERVE_PROBES.
probe() {
  name=$1
  shift
  rm -f "out/$name.json"
  docker rm --force $CONTAINER >/dev/null 2>&1
  # shellcheck disable=SC2086 # options are words
  docker run --rm --pull never --name $CONTAINER --network none --ipc host --ulimit memlock=-1 \
    --volume "$PLACE/probes:/probes:ro" --volume "$OUT:/out" --volume "$PLACE:/measure" $MS_EXTRA $MS_GPU_OPTIONS \
    --env PYTHONDONTWRITEBYTECODE=1 --env PYTHONUNBUFFERED=1 \
    --entrypoint sh "$MS_IMAGE" -c 'exec python3 "${METALSERVE_PROBES:-/probes}/$0" "$@"' \
    "$name.py" --json --out "/out/$name.json" "$@" >"out/$name.log" 2>&1 &
  child=$!
  wait $child
  status=$?
  child=
  [ -e "out/$name.json" ] && return 0
  last=$(grep -v '^$' "out/$name.log" | tail -n 1 | tr -d '"\\' | cut -c1-300)
  printf '{"schema":1,"probe":"%s","error":"ended with %s: %s"}\n' "$name" "$status" "$last" | put "out/$name.json"
}

ended() {
  trap '' TERM INT
  [ -n "$child" ] && docker stop -t 20 $CONTAINER >/dev/null 2>&1 && wait "$child"
  fail "it was stopped"
}

# watch_log: a new Xid ends the load; the container cannot see the kernel log.
watch_log() {
  before=$(dmesg 2>/dev/null | grep -c 'NVRM: Xid')
  while sleep 2; do
    last=$(dmesg 2>/dev/null | grep 'NVRM: Xid' | tail -n 1)
    [ "$(dmesg 2>/dev/null | grep -c 'NVRM: Xid')" -gt "$before" ] && { printf 'Xid: %s\n' "$last" | put stop; return; }
  done
}

run() {
  . ./running
  child=
  trap ended TERM INT
  # A converge would start engines on the GPUs: while this runs it waits, as for a script of its own.
  exec 8>>"$LOCK/apply"
  flock -w 600 8 || fail "a script that an earlier run left on this host is still at work"
  printf 'measurement %s, process %s since %s\n' "$MS_DEPTH" "$$" "$(date '+%Y-%m-%d %H:%M:%S %Z')" >"$LOCK/applying"

  engines=$(systemctl list-units --plain --no-legend --state=active,activating,reloading 'metalserve-vllm-*.service' |
    awk '{print $1}')
  if [ -n "$engines" ]; then
    [ "$MS_STOP_ENGINES" = 1 ] || fail "engines run on this host -> set verify.stop_engines, or stop them"
    # Noted first: whatever happens from here on, `after` starts them again.
    printf '%s\n' "$engines" | put engines
    phase "stopping engines"
    # shellcheck disable=SC2086
    systemctl stop $engines || fail "the engines did not stop"
  fi
  others=$(timeout 20 nvidia-smi --query-compute-apps=pid --format=csv,noheader 2>/dev/null | grep -xE '[0-9]+' |
    tr '\n' ' ')
  [ -z "$others" ] || fail "the GPUs are in use by process $others-> end it, then measure again"

  phase storage
  source=$(findmnt -n -o SOURCE --target "$MS_MOUNT" 2>/dev/null)
  source=${source%%\[*}
  drive=
  target=/store
  MS_EXTRA="--volume $MS_MOUNT:/store:ro"
  if [ -b "$source" ]; then
    drive=$(basename "$(readlink -f "$source")")
    MS_EXTRA="--device $source:/dev/measured:r"
    target=/dev/measured
  fi
  probe storage --path "$target" --device "$drive" --seconds "$MS_STORAGE_SECONDS"

  MS_EXTRA=
  [ -n "${NCCL_NVLS_ENABLE:-}" ] && MS_EXTRA="--env NCCL_NVLS_ENABLE=$NCCL_NVLS_ENABLE"
  phase bandwidth
  probe bandwidth --nvls "$MS_NVLS"

  phase soak
  MS_EXTRA=
  watch_log >/dev/null 2>&1 8>&- &
  watcher=$!
  probe soak --seconds "$MS_SECONDS" --progress /measure/progress.json --stop-file /measure/stop \
    ${MS_LIMIT_C:+--limit-c "$MS_LIMIT_C"}
  kill $watcher 2>/dev/null

  if [ "$MS_DCGM" != 0 ] && command -v dcgmi >/dev/null 2>&1; then
    phase "dcgmi diag -r $MS_DCGM"
    timeout 10800 dcgmi diag -r "$MS_DCGM" -j >out/dcgm.text 2>&1 &
    child=$!
    wait $child
    printf '%s\n' $? >out/dcgm.rc
    child=
    { printf '{"level":%s,"rc":%s,"text":"' "$MS_DCGM" "$(cat out/dcgm.rc)"; base64 -w0 <out/dcgm.text; printf '"}\n'; } |
      put out/dcgm.json
  fi
  phase ended
}

# after: systemd calls this however the measurement ended, also when its shell was killed.
after() {
  docker rm --force $CONTAINER >/dev/null 2>&1
  [ -e phase ] && grep -q ' ended$' phase || [ -e failed ] || say "it was killed (${SERVICE_RESULT:-unknown})" | put failed
  if [ -e engines ]; then
    # Stops and starts in a row count as failed starts; systemd would then refuse this one.
    # shellcheck disable=SC2046
    systemctl reset-failed $(cat engines) 2>/dev/null
    # shellcheck disable=SC2046
    systemctl start --no-block $(cat engines) && rm -f engines
  fi
  : >ended
}

case ${1:-} in
  start) start ;;
  follow) follow "${2:-15}" ;;
  result) result ;;
  run) run ;;
  after) after ;;
  *) say "measure.sh: start, follow, result, run or after" >&2; exit 2 ;;
esac
