#!/bin/sh
# Collects what tells why a node is in trouble, and writes it to standard output as one tar. Changes nothing on the host.
# Sent by `metalserve diagnose` and `metalserve recover` over one SSH session; never installed.
#
#   MS_LIMIT     seconds after which one command is killed
#   MS_DEADLINE  seconds after which the bundle is closed with what there is: a hung nvidia-smi cannot always be killed
#   MS_LINES     lines kept of a log
#   MS_TOKEN     seconds that an engine has for one token
#   MS_HOLDERS, MS_CONTAINERS   commands that tell who has the GPUs open (metalserve/upgrade/holders.py)
#
# manifest.tsv in it has a line a command: name, exit status ("hung": it had not ended), seconds, command.
# Values that look like secrets are struck out here, before they leave the host.
set -u
LC_ALL=C; export LC_ALL
umask 077
PATH=$PATH:/usr/sbin:/sbin; export PATH
place=$(mktemp -d /run/metalserve-evidence.XXXXXXXX 2>/dev/null) || place=$(mktemp -d) || exit 1
trap 'rm -rf "$place"' EXIT
trap 'exit 1' HUP INT PIPE TERM
out=$place/evidence
mkdir "$out" "$place/state"

scrub() {
  sed -E \
    -e 's/((api[_-]?key|token|secret|password|passwd|authorization|credential)\\?["'"'"']?[[:space:]]*[:=][[:space:]]*\\?["'"'"']?(bearer[[:space:]]+|basic[[:space:]]+)?)[^[:space:]"'"'"',;]+/\1***/gI' \
    -e 's/(--(api-key|hf-token|token|password)[[:space:]=]+)[^[:space:]]+/\1***/gI' \
    -e 's/(bearer[[:space:]]+)[A-Za-z0-9._~+\/=-]{8,}/\1***/gI' \
    -e 's/([a-z][a-z0-9+.-]{1,20}:\/\/)[^[:space:]\/@:",]{1,100}:[^[:space:]\/@",]{1,200}@/\1***@/gI' \
    -e 's/\b(hf_|sk-|ghp_|glpat-)[A-Za-z0-9_-]{12,}/\1***/g'
}

# take NAME COMMAND...: run it in the background; its output goes to evidence/NAME.
take() {
  name=$1
  shift
  printf '%s\n' "$*" | cut -c1-300 | tr '\t\n' '  ' >"$place/state/$name.command"
  (
    read -r began _ </proc/uptime
    timeout -k 2 "$MS_LIMIT" "$@" >"$place/$name.raw" 2>&1 </dev/null
    rc=$?
    scrub <"$place/$name.raw" >"$out/$name"
    rm -f "$place/$name.raw"
    read -r ended _ </proc/uptime
    printf '%s\t%s\n' "$rc" "$(awk -v a="$began" -v b="$ended" 'BEGIN{printf "%.1f", b - a}')" >"$place/state/$name.new"
    mv "$place/state/$name.new" "$place/state/$name.done"
  ) &
}

tailed() { tail -n "$MS_LINES" "$@"; }

# Kernel: the journal where it is kept (earlier boots too), else the ring buffer.
take kernel.log sh -c 'dmesg 2>/dev/null | grep -q . && dmesg | tail -n "$1" || journalctl -k -b 0 -o short-iso --no-pager -n "$1"' sh "$MS_LINES"
take kernel-previous.log journalctl -k -b -1 -o short-iso --no-pager -n "$MS_LINES"
take boot.txt sh -c 'cat /proc/sys/kernel/random/boot_id /proc/uptime /proc/cmdline; uname -a; cat /etc/os-release; uptime'
# What a vendor asks for first; root alone may read the serial numbers.
take identity.txt sh -c 'cd /sys/class/dmi/id || exit 1; for f in sys_vendor product_name product_serial product_uuid chassis_serial board_vendor board_name board_serial bios_version bios_date; do [ ! -r "$f" ] || printf "%s=%s\n" "$f" "$(cat "$f")"; done'
# Whose clock the stamps of the kernel log follow, which boot this is, and which machine.
take clock.txt sh -c 'date +%s.%N; cat /proc/sys/kernel/random/boot_id; cut -d" " -f22 /proc/1/stat; dmesg | tail -n 1; dmesg --time-format iso | tail -n 1'
take machine.txt sh -c 'cat /sys/class/dmi/id/product_serial; cat /sys/class/dmi/id/product_uuid; cat /sys/class/dmi/id/product_name'
# GPUs
take smi-q.txt nvidia-smi -q
take smi.txt nvidia-smi
take nvlink-status.txt nvidia-smi nvlink -s
take nvlink-errors.txt nvidia-smi nvlink -e
take gpu-holders.txt sh -c "$MS_HOLDERS"
take gpu-containers.txt sh -c "$MS_CONTAINERS"
take pci.txt lspci -Dn -d 10de:
take topology.txt nvidia-smi topo -m
take driver.txt sh -c 'cat /proc/driver/nvidia/version; lsmod | grep -i nvidia; modinfo -F version nvidia; dkms status'
take lspci.txt sh -c 'lspci -vvv -d 10de:'
# Fabric manager
take fabricmanager.log sh -c 'tail -n "$1" /var/log/fabricmanager.log; journalctl -u nvidia-fabricmanager -o short-iso --no-pager -n "$1"' sh "$MS_LINES"
# Host
take units.txt sh -c 'systemctl --failed --no-pager; systemctl list-units --all --no-pager "metalserve*" "nvidia*" "docker*" "containerd*"'
take memory.txt sh -c 'cat /proc/meminfo; ps -eo pid,ppid,stat,wchan:32,rss,etime,comm --sort=-rss | head -n 60'
take stuck.txt sh -c 'ps -eo pid,stat,wchan:32,comm | awk "NR==1 || \$2 ~ /D/"; for p in $(ps -eo pid,stat | awk "\$2 ~ /D/{print \$1}" | head -n 20); do echo "== $p"; cat "/proc/$p/stack"; done'
take disks.txt sh -c 'lsblk -o NAME,SIZE,TYPE,FSTYPE,MOUNTPOINT,MODEL,SERIAL,STATE; df -hP; cat /proc/mounts /proc/mdstat'
for controller in /dev/nvme[0-9] /dev/nvme[0-9][0-9]; do
  [ ! -e "$controller" ] || take "nvme-${controller#/dev/}.json" nvme smart-log -o json "$controller"
done
# What metalserve itself knows
take containers.txt sh -c 'docker ps -a --no-trunc --format "{{.Names}} {{.Image}} {{.Status}}" || podman ps -a'
take watch.log journalctl -u metalserve-vllm-watch.service -o short-iso --no-pager -n "$MS_LINES"
for file in /var/lib/metalserve/release.json /var/lib/metalserve/upgrade.json; do
  [ ! -e "$file" ] || take "$(basename "$file")" cat "$file"
done
take engine-states.txt sh -c 'for f in /run/metalserve/engines/*; do [ ! -f "$f" ] || { printf "%s " "${f##*/}"; head -c 300 "$f" | tr "\n" " "; echo; }; done'
# Does each engine give a token? /health alone is 200 while none comes; a busy one gives none in time, but it makes steps.
# shellcheck disable=SC2016 # expanded by the inner shell
token='
n=$1 unit=metalserve-vllm-$1.service
echo "unit $(systemctl is-active "$unit")"
given=$(systemctl show -p Environment --value metalserve-vllm-watch.service | tr " " "\n" | tr -d "\"")
get() { printf "%s\n" "$given" | sed -n "s/^$1=//p"; }
[ -z "$(get MS_RANK)" ] || [ "$(get MS_RANK)" = 0 ] || { echo "member"; exit 0; }
port=$(get MS_PORT) address=$(get MS_ADDRESS) model=$(get MS_MODEL) auth=$(get MS_AUTH)
[ -n "$port" ] || { echo "no watch tells its port"; exit 1; }
port=$((port + n))
ask() { seconds=$1 path=$2; shift 2
  if [ -s "$auth" ]; then set -- "$@" -H "@$auth"; fi
  curl -sS --noproxy "*" --connect-timeout 2 --max-time "$seconds" "$@" "http://$address:$port$path"; }
steps() { ask 3 /metrics 2>/dev/null | awk "/^vllm:iteration_tokens_total_count[{ ]/ { s += \$NF; g = 1 }
  /^vllm:generation_tokens_total[{ ]/ { n += \$NF; f = 1 } END { if (g) printf \"%.0f\", s; else if (f) printf \"%.0f\", n; else print \"-\" }"; }
echo "health $(ask 3 /health -o /dev/null -w "%{http_code}" 2>/dev/null)"
before=$(steps)
body="{\"model\": \"$model\", \"prompt\": \"2+2=\", \"max_tokens\": 1, \"temperature\": 0}"
echo "completion $(ask "$2" /v1/completions -o /dev/null -w "%{http_code}" -H "Content-Type: application/json" -d "$body" 2>/dev/null)"
echo "tokens $before $(steps)"'
for unit in /etc/systemd/system/metalserve-vllm-*.service /etc/containers/systemd/metalserve-vllm-*.container; do
  number=${unit##*-}; number=${number%.*}
  case $number in ''|*[!0-9]*) continue ;; esac
  take "engine-$number.log" sh -c 'docker logs --tail "$2" "metalserve-vllm-$1" || podman logs --tail "$2" "metalserve-vllm-$1"; journalctl -u "metalserve-vllm-$1.service" -o short-iso --no-pager -n 200' sh "$number" "$MS_LINES"
  take "token-$number.txt" sh -c "$token" sh "$number" "$MS_TOKEN"
done

# Not `wait`: a program stuck in the kernel never ends, whatever is sent to it.
waited=0
while [ "$waited" -lt "$((MS_DEADLINE * 5))" ]; do
  left=0
  for each in "$place"/state/*.command; do [ -e "${each%.command}.done" ] || left=1; done
  [ "$left" = 1 ] || break
  sleep 0.2
  waited=$((waited + 1))
done
for each in "$place"/state/*.command; do
  name=${each##*/}; name=${name%.command}
  if [ -e "$place/state/$name.done" ]; then
    printf '%s\t%s\t%s\n' "$name" "$(cat "$place/state/$name.done")" "$(cat "$each")"
  else
    # what it said until now is worth having
    scrub <"$place/$name.raw" >"$out/$name" 2>/dev/null
    printf '%s\thung\t%s\t%s\n' "$name" "$MS_DEADLINE" "$(cat "$each")"
  fi
done >"$out/manifest.tsv"
tar -C "$place" -cf - evidence
