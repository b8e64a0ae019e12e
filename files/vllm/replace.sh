#!/bin/sh
# Replace engines whose units were written anew: the old ones are kept until the new ones answer, and come back if not.
# Written by metalserve (roles/vllm). The last line of a failure says what is wrong and what to do.
#
#   replace.sh --roll NUMBER...        one after the other: the others go on serving meanwhile
#   replace.sh --swap "OLD..." "NEW..." the GPUs are cut anew: all old ones end before the first new one starts
#
# A unit that gave a token when it was last started lies in PROVEN (engine-record puts it there).
set -u
LC_ALL=C; export LC_ALL
ROOT=${MS_ROOT:-}
PROVEN=$ROOT/var/lib/metalserve/engines
REFUSED=$ROOT/var/lib/metalserve/engines-refused
UNITS=$ROOT/etc/systemd/system
QUADLETS=$ROOT/etc/containers/systemd
ETC=$ROOT/etc/metalserve

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
unit() { printf 'metalserve-vllm-%s.service' "$1"; }

# reason NUMBER SINCE: the line of its journal that says why it did not answer.
reason() {
  said=$(journalctl -q -o cat --no-pager -u "$(unit "$1")" --since "@$2" 2>/dev/null | tail -n 200)
  line=$(printf '%s\n' "$said" | grep 'metalserve: engine not started: ' | tail -n 1)
  # Docker's own words about containers that are gone, and what follows from a first error, explain nothing.
  [ -n "$line" ] || line=$(printf '%s\n' "$said" | grep -E 'Error|ERROR|error:' | grep -vE 'EngineDeadError|response from daemon' | tail -n 1)
  [ -n "$line" ] || line=$(printf '%s\n' "$said" | grep 'metalserve: ' | tail -n 1)
  [ -n "$line" ] || line=$(printf '%s\n' "$said" | tail -n 1)
  printf '%s' "${line:-it said nothing}" | sed 's/ -> .*//' | cut -c1-300
}

# start NUMBER...: start them side by side and wait until each gives a token.
start() {
  names=$(for number in "$@"; do unit "$number"; echo; done)
  systemctl reset-failed $names 2>/dev/null || :
  systemctl start $names
}

# back NUMBER: the unit file that last gave a token, in place of the one that did not.
back() {
  for file in "$UNITS/metalserve-vllm-$1.service" "$QUADLETS/metalserve-vllm-$1.container"; do
    kept=$PROVEN/${file##*/}
    if [ -f "$kept" ]; then cp -p "$kept" "$file.metalserve-new" && mv -f "$file.metalserve-new" "$file"; else rm -f "$file"; fi
  done
}

# surroundings: the environment (key and all) that the proved units were started with.
surroundings() {
  for file in engine.env engine-auth; do
    if [ -f "$PROVEN/$file" ]; then
      cp -p "$PROVEN/$file" "$ETC/.$file.new" && mv -f "$ETC/.$file.new" "$ETC/$file"
    fi
  done
}

proved() { [ -f "$PROVEN/metalserve-vllm-$1.service" ] || [ -f "$PROVEN/metalserve-vllm-$1.container" ]; }

give_up() { # NUMBERS WHY SERVES
  mkdir -p "${REFUSED%/*}"
  printf '%s; %s\n' "$2" "$3" >"$REFUSED"
  fail "engine $1 did not answer as it is wanted now: $2; $3 -> correct what the line says (journalctl -u $(unit "${1%% *}")), or go back to the release and model before"
}

roll() {
  first=1
  while [ "$#" -gt 0 ]; do
    number=$1
    shift
    began=$(date +%s)
    systemctl reset-failed "$(unit "$number")" 2>/dev/null || :
    if systemctl restart "$(unit "$number")"; then
      say "engine $number answers as it is wanted now, after $(($(date +%s) - began)) s"
      first=0
      rm -f "$REFUSED"
      continue
    fi
    why=$(reason "$number" "$began")
    systemctl stop "$(unit "$number")" 2>/dev/null
    proved "$number" || give_up "$number" "$why" "there is none before it to go back to"
    if [ "$first" = 1 ]; then surroundings; fi
    back "$number"
    # Those that were to follow go on serving: a crash or a reboot must not start them as what was refused.
    for later in "$@"; do
      if proved "$later"; then back "$later"; fi
    done
    systemctl daemon-reload
    if start "$number"; then give_up "$number" "$why" "the one before serves again"; fi
    give_up "$number" "$why" "and the one before did not start again either: $(reason "$number" "$began")"
  done
}

swap() {
  old=$1 new=$2 began=$(date +%s)
  systemctl stop $(for number in $old; do unit "$number"; echo; done) || :
  if start $new; then rm -f "$REFUSED"; say "engines $new answer after $(($(date +%s) - began)) s"; return 0; fi
  failed=
  for number in $new; do
    systemctl -q is-active "$(unit "$number")" || failed="$failed $number"
  done
  why=$(reason "$(printf '%s' "$failed" | awk '{print $1}')" "$began")
  systemctl stop $(for number in $new; do unit "$number"; echo; done) 2>/dev/null
  surroundings
  ready=
  for number in $old; do
    if proved "$number"; then back "$number"; ready="$ready $number"; fi
  done
  for number in $new; do
    case " $old " in *" $number "*) ;; *) rm -f "$UNITS/metalserve-vllm-$number.service" "$QUADLETS/metalserve-vllm-$number.container" ;; esac
  done
  systemctl daemon-reload
  [ -n "$ready" ] || give_up "${failed# }" "$why" "there is none before it to go back to"
  if start $ready; then give_up "${failed# }" "$why" "those before ($ready ) serve again"; fi
  give_up "${failed# }" "$why" "and those before did not start again either"
}

case "${1:-}" in
  --roll) shift; systemctl daemon-reload; roll "$@" ;;
  --swap) systemctl daemon-reload; swap "$2" "$3" ;;
  *) fail "usage: $0 --roll NUMBER... | --swap \"OLD...\" \"NEW...\"" ;;
esac
