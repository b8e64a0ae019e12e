#!/bin/sh
# Do the engines of this host go on working? Looks at them every few seconds; says what it sees, restarts what stalled.
# Written by metalserve (roles/vllm). /health is 200 on engines that give no token: what counts is that steps are made.
#
#   watch.sh          for ever
#   watch.sh --look   once
#
#   MS_ADDRESS MS_MODEL MS_AUTH   as for the probe, which lies beside it
#   MS_PORT       port of the first engine          MS_RUNTIME   docker or podman
#   MS_INTERVAL   seconds between two looks         MS_STALL     seconds without a step after which an engine stalled
#   MS_RESTARTS   restarts of one stalled engine within an hour; 0: only tell
#   MS_RANK       place of this host in a group, 0 for its head; empty: engines of its own
#   MS_PEERS      the others that count: every member for the head, the head for a member: NAME=ADDRESS, spaces between
#   MS_STATE_PORT port at which they tell their state
#
# What it knows lies in STATES, a few files an engine, so that it may be restarted itself.
set -u
LC_ALL=C; export LC_ALL
LIBRARY=$(dirname "$0")
ROOT=${MS_ROOT:-}
STATES=$ROOT/run/metalserve/engines
RUNTIME=${MS_RUNTIME:-docker}
mkdir -p "$STATES"

say() { printf 'metalserve: %s\n' "$*"; }
unit() { printf 'metalserve-vllm-%s.service' "$1"; }
now() { date +%s; }
get() { cat "$STATES/$1" 2>/dev/null || :; }
put() { printf '%s\n' "$2" >"$STATES/.$1.new" && mv -f "$STATES/.$1.new" "$STATES/$1"; }

numbers() {
  for file in "$ROOT"/etc/systemd/system/metalserve-vllm-*.service "$ROOT"/etc/containers/systemd/metalserve-vllm-*.container; do
    number=${file##*metalserve-vllm-}
    number=${number%.*}
    case "$number" in ''|*[!0-9]*) ;; *) echo "$number" ;; esac
  done | sort -nu
}

metrics() {
  set -- -sS --noproxy '*' --connect-timeout 2 --max-time 10 "http://$MS_ADDRESS:$1/metrics"
  if [ -s "$MS_AUTH" ]; then set -- -H "@$MS_AUTH" "$@"; fi
  curl -f "$@" 2>/dev/null
}

# work: running requests, then a number that grows with every step (tokens where the histogram is not there).
work() {
  awk '/^vllm:num_requests_running[{ ]/ { running += $NF; f = 1 }
    /^vllm:iteration_tokens_total_count[{ ]/ { steps += $NF; g = 1 }
    /^vllm:(generation|prompt)_tokens_total[{ ]/ { tokens += $NF; h = 1 }
    END { if (f && (g || h)) printf "%d %.0f\n", running, g ? steps : tokens }'
}

# look NUMBER: compare with the last look; an engine whose requests stand still, or that answers nothing, is suspected.
look() {
  number=$1
  if [ "$(systemctl is-active "$(unit "$number")" 2>/dev/null)" != active ]; then
    rm -f "$STATES/$number.since" "$STATES/$number.steps" "$STATES/$number.misses" "$STATES/$number.detached"
    put "$number" "not running"
    return 0
  fi
  seen=$(metrics "$((MS_PORT + number))" | work)
  running=${seen%% *} steps=${seen##* }
  before=$(get "$number.steps")
  if [ -n "$seen" ] && { [ "$running" = 0 ] || [ "$steps" != "$before" ]; }; then
    put "$number.steps" "$steps"
    rm -f "$STATES/$number.since" "$STATES/$number.misses" "$STATES/$number.told"
    put "$number" ready
    return 0
  fi
  if [ -z "$(get "$number.since")" ]; then put "$number.since" "$(now)"; put "$number.misses" 0; fi
  misses=$(($(get "$number.misses") + 1))
  put "$number.misses" "$misses"
  spent=$(($(now) - $(get "$number.since")))
  # A saturated server misses a look now and then: three at least, and the whole time.
  if [ "$misses" -lt 3 ] || [ "$spent" -lt "$MS_STALL" ]; then return 0; fi
  if [ -n "$seen" ]; then what="$running requests run and no step was made for $spent s (counter stands at $steps)"
  else what="no answer from /metrics for $spent s"; fi
  stalled "$number" "$what"
}

# stalled NUMBER WHAT: ask once for a token, write down what there is to see, restart it if that is not done too often.
stalled() {
  if "$LIBRARY/engine-probe" --once "$((MS_PORT + $1))" >/dev/null 2>&1; then
    say "engine $1: $2, yet a token came: left alone"
    rm -f "$STATES/$1.since" "$STATES/$1.misses"
    return 0
  fi
  put "$1" "stalled: $2"
  hour=$(($(now) - 3600))
  recent=$(get "$1.restarts" | awk -v hour="$hour" '$1 > hour' | tail -n 50)
  count=$(printf '%s' "$recent" | grep -c . || :)
  if [ "$count" -ge "$MS_RESTARTS" ]; then
    if [ -z "$(get "$1.told")" ]; then
      say "engine $1 stalled: $2; not restarted: that was done $count times within an hour -> look at its log and the GPUs (dmesg | grep -i xid), then: systemctl restart $(unit "$1")"
      put "$1.told" "$2"
    fi
    return 0
  fi
  rm -f "$STATES/$1.told"
  say "engine $1 stalled: $2; restarted ($((count + 1)) of $MS_RESTARTS within an hour)"
  evidence "$1"
  { [ -z "$recent" ] || printf '%s\n' "$recent"; now; } >"$STATES/.$1.restarts.new" && mv -f "$STATES/.$1.restarts.new" "$STATES/$1.restarts"
  rm -f "$STATES/$1.since" "$STATES/$1.misses" "$STATES/$1.steps"
  restart "$1"
}

evidence() {
  timeout 10 "$RUNTIME" logs --tail 8 "metalserve-vllm-$1" 2>&1 | sed "s/^/metalserve: engine $1 said: /" | cut -c1-400
  timeout 20 nvidia-smi --query-gpu=index,utilization.gpu,memory.used,pstate --format=csv,noheader 2>&1 |
    head -n 16 | sed "s/^/metalserve: GPU (index, busy, memory, state): /"
}

# restart NUMBER: what is stuck finishes no request, so it is killed; a stop would wait for them first.
restart() {
  timeout 20 "$RUNTIME" unpause "metalserve-vllm-$1" >/dev/null 2>&1
  timeout 20 "$RUNTIME" kill "metalserve-vllm-$1" >/dev/null 2>&1
  # Ordered by the watch, so it does not count as one of the engine's own failed starts.
  systemctl reset-failed "$(unit "$1")" 2>/dev/null
  systemctl restart --no-block "$(unit "$1")"
}

# attached NUMBER: can a new program in the container still open a GPU? `systemctl daemon-reload` takes the GPUs from
# containers that got them without CDI where systemd manages the cgroups; what runs goes on, what is started anew fails.
attached() {
  [ "$(get "$1")" = ready ] || return 0
  said=$(timeout 20 "$RUNTIME" exec "metalserve-vllm-$1" sh -c ': </dev/nvidiactl' 2>&1) || {
    case "$said" in
      *nvidiactl*"not permitted"*|*nvidiactl*[Nn]"o such "*)
        put "$1.detached" "$said"
        say "engine $1 has lost its GPUs ($said): it fails when it next opens one -> systemctl restart $(unit "$1") when it may pause; see roles/container_runtime about daemon-reload"
        return 0 ;;
    esac
  }
  rm -f "$STATES/$1.detached"
}

. "$LIBRARY/engine-group" 2>/dev/null || group() { :; }

looks=0
while :; do
  for number in $(numbers); do
    # A part without an API cannot be asked; the head is asked for all of them.
    case "${MS_RANK:-}" in ''|0) look "$number" ;; esac
    if [ "$((looks % 30))" = 2 ]; then attached "$number"; fi
  done
  if [ -n "${MS_RANK:-}" ]; then group; fi
  looks=$((looks + 1))
  [ "${1:-}" != --look ] || exit 0
  sleep "$MS_INTERVAL"
done
