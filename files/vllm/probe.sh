#!/bin/sh
# Does an engine answer? The served name in /v1/models and one completion: /health alone is 200 while no token comes out.
# Written by metalserve (roles/vllm).
#
#   probe.sh --all PORT             every engine this host has a unit for, the first one on PORT: what each answered
#   probe.sh --once PORT            exit status 0 when the engine on PORT gives tokens
#   probe.sh --wait SECONDS PORT    wait until it does; gives up at once when MAINPID has ended
#
#   MS_ADDRESS  address of the API     MS_MODEL  served name     MS_AUTH  file with the Authorization header, if any
set -u
LC_ALL=C; export LC_ALL
UNITS=/etc/systemd/system
QUADLETS=/etc/containers/systemd
STATES=/run/metalserve/engines

ask() { # SECONDS PATH [BODY]: the answer, then a last line with the HTTP status (000: none)
  seconds=$1 path=$2
  shift 2
  if [ -s "$MS_AUTH" ]; then set -- "$@" -H "@$MS_AUTH"; fi
  curl -sS --noproxy '*' --connect-timeout 2 --max-time "$seconds" -w '\n%{http_code}\n' "$@" "http://$MS_ADDRESS:$port$path" 2>&1
}

complete() { # SECONDS TOKENS
  ask "$1" /v1/completions -H 'Content-Type: application/json' \
    -d "{\"model\": \"$MS_MODEL\", \"prompt\": \"The capital of France is\", \"max_tokens\": $2, \"temperature\": 0}"
}

status_of() { printf '%s\n' "$1" | tail -n 1; }
body_of() { printf '%s\n' "$1" | sed '$d' | tr -d '\r' | tr '\n' ' '; }

# work: a number that grows with every token read or written, "-" when the metrics cannot be had.
work() {
  said=$(ask 5 /metrics)
  [ "$(status_of "$said")" = 200 ] || { echo -; return; }
  printf '%s\n' "$said" | awk '/^vllm:(generation|prompt)_tokens_total[{ ]/{n+=$NF; f=1} END{if (f) printf "%.0f\n", n; else print "-"}'
}

# detached NUMBER: what the watch found when it last tried to open a GPU in the container.
detached() {
  [ ! -s "$STATES/$1.detached" ] || printf 'detached %s\n' "$(tr '\n' ' ' <"$STATES/$1.detached")"
}

# look PORT: one line an answer. A busy engine may give no token in time, but its counters move.
look() {
  port=$1
  said=$(ask 5 /health)
  printf '@engine %s\nhealth %s %s\n' "$port" "$(status_of "$said")" "$(body_of "$said")"
  [ "$(status_of "$said")" = 200 ] || return 0
  said=$(ask 5 /v1/models)
  printf 'models %s %s\n' "$(status_of "$said")" "$(body_of "$said")"
  said=$(complete 15 8)
  printf 'completion %s %s\n' "$(status_of "$said")" "$(body_of "$said")"
  [ "$(status_of "$said")" = 000 ] || return 0
  before=$(work)
  sleep 3
  printf 'work %s %s\n' "$before" "$(work)"
}

# gives_tokens PORT: the name is served and a completion came.
gives_tokens() {
  port=$1
  said=$(complete 15 1)
  [ "$(status_of "$said")" = 200 ] && printf '%s' "$said" | grep -q '"choices"'
}

case "${1:-}" in
  --all)
    answers=$(mktemp -d /run/metalserve-probe.XXXXXXXX) || exit 1
    trap 'rm -rf "$answers"' EXIT
    for unit in "$UNITS"/metalserve-vllm-*.service "$QUADLETS"/metalserve-vllm-*.container; do
      number=${unit##*-}
      number=${number%.*}
      case "$number" in ''|*[!0-9]*) continue ;; esac
      { look "$(($2 + number))"; detached "$number"; } >"$answers/$number" &   # side by side: eight stuck engines must not take eight times as long
    done
    wait
    cat "$answers"/* 2>/dev/null || :
    ;;
  --once) gives_tokens "$2" ;;
  --wait)
    began=$(date +%s) told=0
    while :; do
      spent=$(($(date +%s) - began))
      if gives_tokens "$3"; then echo "metalserve: the engine on port $3 answers after $spent s"; exit 0; fi
      if [ -n "${MAINPID:-}" ] && ! kill -0 "$MAINPID" 2>/dev/null; then
        echo "metalserve: the engine ended while it was starting, after $spent s -> its last lines are above" >&2
        exit 1
      fi
      if [ "$spent" -ge "$2" ]; then
        echo "metalserve: no token within $2 s; the last answer was HTTP $(status_of "$said") $(body_of "$said" | cut -c1-200) -> see the lines above, or raise engine.start_timeout_s" >&2
        exit 1
      fi
      if [ "$((spent / 60))" -gt "$told" ]; then told=$((spent / 60)); echo "metalserve: still starting after $spent s"; fi
      # What is ready soon is not kept waiting: an engine of a small model, or one whose kernels are compiled already.
      if [ "$spent" -lt 60 ]; then sleep 0.5; else sleep 2; fi
    done
    ;;
  *) echo "usage: $0 --all PORT | --once PORT | --wait SECONDS PORT" >&2; exit 2 ;;
esac
