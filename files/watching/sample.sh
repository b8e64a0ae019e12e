#!/bin/sh
# Streams what a GPU node does, a frame every MS_INTERVAL seconds, until its output is closed. Changes nothing on the
# host. Sent by `metalserve top` over one SSH session; never installed.
#
# Each source is read by a loop of its own, which puts a whole answer into a file. The frames are made by another loop,
# so that a source that hangs (nvidia-smi of a lost GPU cannot always be killed) only grows old in the view.
#
#   MS_INTERVAL  seconds between frames       MS_LIMIT    seconds after which one command is killed
#   MS_FIELDS    fields of --query-gpu        MS_METRICS  names of the engines' metrics, an extended regular expression
#   MS_ADDRESS   address of the engines       MS_PORT     port of the first engine
#
# A frame:   @@frame NUMBER UPTIME BOOT_ID EPOCH
#            @@section NAME STATUS BEGAN ENDED (uptimes) and its text, only when it is new since the last frame
#            @@busy NAME BEGAN                           a source that is being read now
#            @@end NUMBER
set -u
LC_ALL=C; export LC_ALL
PATH=$PATH:/usr/sbin:/sbin; export PATH
place=$(mktemp -d /run/metalserve-top.XXXXXXXX 2>/dev/null) || place=$(mktemp -d) || exit 1
collectors=
finish() { trap - EXIT HUP INT PIPE TERM; [ -z "$collectors" ] || kill $collectors 2>/dev/null; rm -rf "$place"; exit 0; }
trap finish EXIT HUP INT PIPE TERM

now() { read -r up _ </proc/uptime; }
limited() { timeout -k 2 "$MS_LIMIT" "$@"; }

# One unknown field makes the whole query fail; which ones a driver knows is found out by asking, once.
take_gpu() {
  tries=0
  while :; do
    said=$(limited nvidia-smi --query-gpu="$MS_FIELDS" --format=csv 2>&1); rc=$?
    bad=$(printf '%s\n' "$said" | sed -n 's/^Field "\([A-Za-z0-9_.]*\)" is not a valid field to query.*/\1/p' | head -n 1)
    tries=$((tries + 1))
    if [ -z "$bad" ] || [ "$tries" -gt 20 ]; then break; fi
    case $bad in clocks_event_reasons.active) other=clocks_throttle_reasons.active ;; *) other= ;; esac
    MS_FIELDS=$(printf '%s\n' "$MS_FIELDS" | tr , '\n' | sed "s/^$bad\$/$other/" | grep . | tr '\n' ,)
    MS_FIELDS=${MS_FIELDS%,}
  done
  printf '%s\n' "$said"
  return "$rc"
}

take_link() { limited nvidia-smi nvlink -s; }

take_log() {
  said=$(limited dmesg 2>&1); rc=$?
  if [ "$rc" -ne 0 ]; then printf '%s\n' "$said" | tail -n 3; return "$rc"; fi
  printf '%s\n' "$said" | grep -aE 'NVRM.*Xid|SXid \(|fallen off the bus|NVRM: +The NVIDIA GPU' | tail -n 100
  return 0
}

take_engines() {
  rm -f "$place"/engine.*
  for unit in /etc/systemd/system/metalserve-vllm-*.service /etc/containers/systemd/metalserve-vllm-*.container; do
    number=${unit##*-}; number=${number%.*}
    case $number in ''|*[!0-9]*) continue ;; esac
    { # side by side: eight engines that do not answer must not take eight times as long
      state=$(limited systemctl is-active "metalserve-vllm-$number.service" 2>/dev/null)
      port=$((MS_PORT + number))
      said=$(curl -sS --noproxy '*' --connect-timeout 2 --max-time 5 -w '\n%{http_code}\n' "http://$MS_ADDRESS:$port/metrics" 2>&1)
      now
      printf '@@engine %s %s %s %s %s\n' "$number" "$port" "${state:-unknown}" "$(printf '%s\n' "$said" | tail -n 1)" "$up"
      printf '%s\n' "$said" | grep -E "^($MS_METRICS)[{ ]"
    } >"$place/engine.$number" &
  done
  wait
  cat "$place"/engine.* 2>/dev/null
  return 0
}

# collect NAME PAUSE
collect() {
  while [ -d "$place" ]; do
    now; began=$up
    printf '%s\n' "$began" >"$place/$1.began"
    "take_$1" >"$place/$1.new" 2>&1; rc=$?
    now
    { printf '@@section %s %s %s %s\n' "$1" "$rc" "$began" "$up"; cat "$place/$1.new"; } >"$place/$1.whole" || exit
    mv "$place/$1.whole" "$place/$1"
    rm -f "$place/$1.began"
    sleep "$2"
  done
}

for each in "gpu $MS_INTERVAL" "engines $MS_INTERVAL" "link 20" "log 10"; do
  # shellcheck disable=SC2086
  collect $each </dev/null >/dev/null 2>&1 &
  collectors="$collectors $!"
done

read -r boot </proc/sys/kernel/random/boot_id
frame=0
while :; do
  # so that the first frame has something in it, and no later one comes before its time
  if [ "$frame" -eq 0 ]; then sleep 1; else sleep "$MS_INTERVAL"; fi
  now
  {
    printf '@@frame %s %s %s %s\n' "$frame" "$up" "$boot" "$(date +%s)" &&
    for name in gpu engines link log; do
      if mv "$place/$name" "$place/$name.sent" 2>/dev/null; then cat "$place/$name.sent"; fi
      if read -r began 2>/dev/null <"$place/$name.began"; then printf '@@busy %s %s\n' "$name" "$began"; fi
    done &&
    printf '@@end %s\n' "$frame"
  } 2>/dev/null || exit
  frame=$((frame + 1))
done
