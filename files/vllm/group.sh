# One engine over several hosts: each of them starts and restarts in step with the others. Read by gate and watch.
# Written by metalserve (roles/vllm). POSIX sh.
#
# vLLM's ranks do not notice that one of them has died: the head waits for ever (measured on 0.32). So every host tells
# the others the state of its part (metalserve-vllm-beacon), and these are the rules:
#   head    starts when every member answers and is of its version; starts anew when one that had joined it has not now
#   member  starts when the head has begun a start that it has not joined before; starts anew when the head has
#
#   MS_RANK MS_PEERS MS_STATE_PORT   see engine-watch        MS_VERSION   what the group runs: image, model, arguments
#   MS_GROUP_WAIT                    seconds to wait for the others

STATES=${STATES:-${MS_ROOT:-}/run/metalserve/engines}
GROUP_UNIT=metalserve-vllm-0.service

group_say() { printf 'metalserve: %s\n' "$*"; }

# peer NAME=ADDRESS: the state that a host tells, one line: id=... state=... version=... joined=...; nothing when it is silent.
peer() {
  where=${1#*=}
  case "$where" in *:*) where="[$where]" ;; esac
  curl -sS --noproxy '*' --connect-timeout 2 --max-time 5 "http://$where:$MS_STATE_PORT/" 2>/dev/null | tr -d '\r' | grep '^id=' | tail -n 1
}

# field NAME LINE
field() { printf '%s\n' "$2" | tr ' ' '\n' | sed -n "s/^$1=//p"; }

# group_state: what this host tells. `state` is systemd's: activating/start-pre is the gate, activating/start-post and
# active/running mean that the container is up.
group_state() {
  said=$(systemctl show -p InvocationID -p ActiveState -p SubState "$GROUP_UNIT" 2>/dev/null)
  id=$(printf '%s\n' "$said" | sed -n 's/^InvocationID=//p')
  active=$(printf '%s\n' "$said" | sed -n 's/^ActiveState=//p')
  sub=$(printf '%s\n' "$said" | sed -n 's/^SubState=//p')
  version=$(sed -n 's/^Environment=MS_VERSION=//p' "${MS_ROOT:-}/etc/systemd/system/$GROUP_UNIT" \
    "${MS_ROOT:-}/etc/containers/systemd/${GROUP_UNIT%.service}.container" 2>/dev/null | head -n 1)
  printf 'id=%s state=%s/%s version=%s joined=%s\n' "${id:-none}" "${active:-none}" "${sub:-none}" "${version:-none}" \
    "$(cat "$STATES/joined" 2>/dev/null || echo none)"
}

up() { # LINE: its container runs
  case "$(field state "$1")" in activating/start|activating/start-post|active/running) return 0 ;; *) return 1 ;; esac
}

group_gate() {
  mkdir -p "$STATES"
  began=$(date +%s) told=-1
  while :; do
    if [ "$MS_RANK" = 0 ]; then waits=$(members_missing); else waits=$(head_missing); fi
    [ -n "$waits" ] || return 0
    spent=$(($(date +%s) - began))
    [ "$spent" -lt "$MS_GROUP_WAIT" ] ||
      refuse "after $spent s $waits -> run the deploy on all hosts of the group together, and see that they reach each other on port $MS_STATE_PORT"
    if [ "$((spent / 60))" -gt "$told" ]; then told=$((spent / 60)); group_say "the group: $waits"; fi
    sleep 1
  done
}

members_missing() {
  for member in $MS_PEERS; do
    line=$(peer "$member")
    if [ -z "$line" ]; then echo "host ${member%%=*} does not answer on ${member#*=}"; return 0; fi
    if [ "$(field version "$line")" != "$MS_VERSION" ]; then echo "host ${member%%=*} is set up for something else"; return 0; fi
    case "$(field state "$line")" in
      failed/*|inactive/*) echo "the engine of host ${member%%=*} is stopped ($(field state "$line"))"; return 0 ;;
    esac
  done
}

# head_missing: why this member does not start yet; notes the head's start that it joins.
head_missing() {
  line=$(peer "$MS_PEERS")
  if [ -z "$line" ]; then echo "the head ${MS_PEERS%%=*} does not answer on ${MS_PEERS#*=}"; return 0; fi
  if [ "$(field version "$line")" != "$MS_VERSION" ]; then echo "the head ${MS_PEERS%%=*} is set up for something else"; return 0; fi
  if ! up "$line"; then echo "the head ${MS_PEERS%%=*} has not begun ($(field state "$line"))"; return 0; fi
  id=$(field id "$line")
  if [ "$id" = "$(cat "$STATES/joined" 2>/dev/null)" ] || [ "$(field state "$line")" = active/running ]; then
    echo "the head ${MS_PEERS%%=*} has yet to start anew"
    return 0
  fi
  printf '%s\n' "$id" >"$STATES/joined"
}

# group: one look of the watch.
group() {
  mine=$(group_state)
  up "$mine" || { rm -f "$STATES/silent"; return 0; }
  if [ "$MS_RANK" = 0 ]; then wrong=$(lost_member "$mine"); else wrong=$(lost_head); fi
  case "$wrong" in
    '') rm -f "$STATES/silent"; return 0 ;;
    \?*) # silent: it may only be slow, so three looks of it
      if [ "$(cat "$STATES/silent" 2>/dev/null | grep -c .)" -lt 2 ]; then echo . >>"$STATES/silent"; return 0; fi
      wrong=${wrong#\?} ;;
  esac
  rm -f "$STATES/silent"
  group_say "$wrong: this host's part starts anew"
  restart 0
}

lost_member() {
  for member in $MS_PEERS; do
    line=$(peer "$member")
    if [ -z "$line" ]; then echo "?host ${member%%=*} of the group is silent"; return 0; fi
    if [ "$(field joined "$line")" = "$(field id "$1")" ]; then
      up "$line" || { echo "host ${member%%=*} of the group had joined and has ended ($(field state "$line"))"; return 0; }
    elif [ "$(field state "$1")" = active/running ]; then
      echo "host ${member%%=*} of the group is not part of what runs here ($(field state "$line"))"
      return 0
    fi
  done
}

lost_head() {
  line=$(peer "$MS_PEERS")
  # A head that is silent may come back the same; when it was started anew meanwhile its id tells.
  [ -n "$line" ] || return 0
  [ "$(field id "$line")" = "$(cat "$STATES/joined" 2>/dev/null)" ] || echo "the head ${MS_PEERS%%=*} was started anew"
}
