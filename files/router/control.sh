#!/bin/sh
# Speaks to the running router: what it runs, which replicas are in it, and takes them out and back in.
# Written by metalserve (roles/router).
#
#   router-control state                           generation, then HAProxy's table of servers
#   router-control drain SECONDS FORCE NAME...     no new requests for NAME (HOST or HOST:PORT); wait for those it has
#   router-control enable NAME...                  requests again
#   router-control save                            keep what is up, down and drained for the next process
#   router-control load GENERATION                 start or reload, and wait until it runs that configuration
#   router-control reload PID                      (the unit's) check the configuration, then have PID load it
#
# Exit status of `drain`: 0 nothing runs there any more; 3 the time was up; 4 refused: nothing else serves the model.
set -u
LC_ALL=C; export LC_ALL
CONFIGURATION=${MS_CONFIGURATION:-/etc/metalserve/router/haproxy.cfg}
RUN=${MS_RUN_ROUTER:-/run/metalserve-router}
SERVERS=${MS_SERVERS:-/var/lib/metalserve-router/servers}
UNIT=metalserve-router.service

fail() { printf '%s\n' "$*" >&2; exit 1; }

ask() { # COMMAND: HAProxy's answer
  printf '%s\n' "$1" | socat -t 5 - "UNIX-CONNECT:$RUN/admin.sock" 2>/dev/null
}

# servers: a line a server of a model: BACKEND NAME STATUS REQUESTS WAITING POOL. The backend is the pool, or one of
# its replicas ("POOL::HOST:PORT") where vllm-router chooses among them.
servers() {
  ask 'show stat -1 4 -1' | awk -F, '$1 ~ /^model-/ {split($18, s, " "); pool = $1; sub(/::.*/, "", pool); print $1, $2, s[1], $5, $3, pool}'
}

# old_requests NAME: requests that processes of before a reload still have there
old_requests() {
  [ -S "$RUN/master.sock" ] || { echo 0; return; }
  total=0
  for pid in $(printf 'show proc\n' | socat -t 5 - "UNIX-CONNECT:$RUN/master.sock" 2>/dev/null |
    awk '/^# old workers/{old=1; next} /^#/{old=0} old && $2 == "worker" {print $1}'); do
    n=$(printf '@!%s show stat -1 4 -1\n' "$pid" | socat -t 5 - "UNIX-CONNECT:$RUN/master.sock" 2>/dev/null |
      awk -F, -v name="$1" '$1 ~ /^model-/ && $2 == name {n += $5} END {print n + 0}')
    total=$((total + n))
  done
  echo "$total"
}

# chosen NAME...: the lines of `servers` that a name means; fails when one means none
chosen() {
  all=$(servers)
  [ -n "$all" ] || fail "the router does not answer -> systemctl status $UNIT"
  # One by one and not in a pipe, where a failure would be lost.
  for name in "$@"; do
    printf '%s\n' "$all" | awk -v n="$name" '$2 == n || index($2, n ":") == 1 {found = 1} END {exit !found}' ||
      fail "the router has no replica $name -> it has: $(printf '%s\n' "$all" | awk '{print $2}' | tr '\n' ' ')"
  done
  for name in "$@"; do printf '%s\n' "$all" | awk -v n="$name" '$2 == n || index($2, n ":") == 1'; done | sort -u
}

save() {
  new=$(mktemp "$SERVERS.XXXXXX") || return 1
  # Not over a good one with nothing, when the process is just not there.
  if ask 'show servers state' >"$new" && [ "$(head -n 1 "$new")" = 1 ]; then mv -f "$new" "$SERVERS"; else rm -f "$new"; fi
}

set_state() { # POOL/NAME STATE
  said=$(ask "set server $1 state $2")
  [ -z "$(printf '%s' "$said" | tr -d ' \n')" ] || fail "$1: $said"
}

drain() {
  seconds=$1 force=$2
  shift 2
  lines=$(chosen "$@") || exit 1
  if [ "$force" != 1 ]; then
    for pool in $(printf '%s\n' "$lines" | awk '{print $6}' | sort -u); do
      left=$(servers | awk -v p="$pool" '$6 == p && $3 == "UP" {print $1, $2}' | while read -r other; do
        printf '%s\n' "$lines" | grep -qF "$other " || echo "$other"
      done)
      up=$(printf '%s\n' "$lines" | awk -v p="$pool" '$6 == p && $3 == "UP"')
      [ -n "$left" ] || [ -z "$up" ] || {
        printf '%s: nothing else is up that serves this model -> --force drains it all the same\n' "$pool" >&2
        exit 4
      }
    done
  fi
  printf '%s\n' "$lines" | { while read -r pool name _; do set_state "$pool/$name" drain || exit 1; done; } || exit 1
  save
  began=$(date +%s)
  while :; do
    busy=""
    for name in $(printf '%s\n' "$lines" | awk '{print $2}' | sort -u); do
      n=$(servers | awk -v n="$name" '$2 == n {s += $4 + $5} END {print s + 0}')
      n=$((n + $(old_requests "$name")))
      [ "$n" = 0 ] || busy="$busy $name ($n)"
    done
    [ -n "$busy" ] || { printf 'drained in %s s: %s\n' "$(($(date +%s) - began))" "$(names)"; exit 0; }
    [ "$(($(date +%s) - began))" -lt "$seconds" ] || {
      printf 'after %s s requests still run on%s: they are left to end, no new ones come\n' "$seconds" "$busy" >&2
      exit 3
    }
    sleep 0.2
  done
}

names() { printf '%s\n' "$lines" | awk '{print $2}' | sort -u | tr '\n' ' ' | sed 's/ $//'; }

enable() {
  lines=$(chosen "$@") || exit 1
  printf '%s\n' "$lines" | { while read -r pool name _; do set_state "$pool/$name" ready || exit 1; done; } || exit 1
  save
  printf 'enabled: %s\n' "$(names)"
}

generation() { ask 'show env MS_GENERATION' | sed -n 's/^MS_GENERATION=//p'; }

load() {
  if systemctl -q is-active "$UNIT"; then systemctl reload "$UNIT"; else
    systemctl reset-failed "$UNIT" 2>/dev/null || :
    systemctl start "$UNIT"
  fi || fail "the router did not take the configuration: $(journalctl -q -o cat -n 5 -u "$UNIT" | tr '\n' ' ') -> journalctl -u $UNIT"
  tries=0
  until [ "$(generation)" = "$1" ]; do
    tries=$((tries + 1))
    [ "$tries" -le 75 ] || fail "the router still runs another configuration after 15 s -> journalctl -u $UNIT"
    sleep 0.2
  done
}

case "${1:-}" in
  state)
    printf 'generation %s\n' "$(generation)"
    ask 'show stat -1 6 -1'
    ;;
  drain) shift; [ $# -ge 3 ] || fail "drain SECONDS FORCE NAME..."; drain "$@" ;;
  enable) shift; [ $# -ge 1 ] || fail "enable NAME..."; enable "$@" ;;
  save) save ;;
  load) load "$2" ;;
  reload)
    save
    haproxy -c -f "$CONFIGURATION" && kill -USR2 "$2"
    ;;
  *) sed -n 's/^#   //p' "$0" >&2; exit 2 ;;
esac
