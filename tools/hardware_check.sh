#!/bin/sh
# What a GPU host really is and gives: read-only captures, bandwidth, a soak, a drive's read rate, and metalserve's word
# on them. Runs on the host itself, as root or not, with no network, within 8 minutes; changes no setting of the GPUs.
#
#   tools/hardware_check.sh [-o DIRECTORY] [-s SOAK_SECONDS] [-m MODEL]
#
# Leaves at most eight files in DIRECTORY (default ./hardware-check):
#   captures.txt    every tool's output, in sections      bandwidth.json  all-reduce and copies between GPUs
#   smi.xml         nvidia-smi -q -x                       soak.json       sustained load, watched each second
#   verify.json     pyinfra @local deploys/verify.py       storage.json    sequential read
#   report.html     all of it as one page                  summary.txt     what was read, judged and planned
# NVLink multicast (NVLS) stays off: NCCL_NVLS_ENABLE=0 is set for the probes.
# PYTHON names the Python that has PyTorch (default python3); metalserve's own needs must be importable in it for the
# last three files, otherwise the summary says which is missing and the others are still made.
set -u
LC_ALL=C; export LC_ALL
out=./hardware-check soak=120 model=meta-llama/Llama-3.3-70B-Instruct
usage() { sed -n '2,17s/^# \{0,1\}//p' "$0"; }
while getopts o:s:m:h option; do
  case $option in
    o) out=$OPTARG ;;
    s) soak=$OPTARG ;;
    m) model=$OPTARG ;;
    h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done
case $soak in '' | *[!0-9]*) echo "hardware_check: -s $soak: give whole seconds" >&2; exit 2 ;; esac
here=$(cd "$(dirname "$0")/.." && pwd) || exit 1
mkdir -p "$out" && out=$(cd "$out" && pwd) || { echo "hardware_check: $out: cannot be made" >&2; exit 1; }
PYTHON=${PYTHON:-python3}
PATH=$PATH:/usr/local/nvidia/bin:/usr/sbin:/sbin
NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1
export PATH PYTHON NCCL_NVLS_ENABLE TORCH_SYMM_MEM_DISABLE_MULTICAST
captures=$out/captures.txt
: >"$captures"
say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*"; }

# section NAME COMMAND: one read-only command, ended after 30 s, with its exit status.
section() {
  printf '@@ms:section %s: %s\n' "$1" "$2" >>"$captures"
  timeout -k 2 30 sh -c "$2" >>"$captures" 2>&1
  printf '\n@@ms:rc %s\n' "$?" >>"$captures"
}

say "captures"
section smi-table 'nvidia-smi'
section smi-list 'nvidia-smi -L'
section smi-q 'nvidia-smi -q'
section smi-version 'nvidia-smi --version'
section topo 'nvidia-smi topo -m'
for kind in r w n a p; do section "p2p-$kind" "nvidia-smi topo -p2p $kind"; done
section nvlink-status 'nvidia-smi nvlink -s'
section nvlink-caps 'nvidia-smi nvlink -c'
section nvlink-errors 'nvidia-smi nvlink -e'
section smi-csv 'nvidia-smi --query-gpu=index,name,uuid,pci.bus_id,driver_version,memory.total,power.limit,temperature.gpu,pcie.link.gen.current,pcie.link.gen.max,pcie.link.width.current,pcie.link.width.max --format=csv'
section smi-apps 'nvidia-smi --query-compute-apps=pid,name,used_memory --format=csv'
section lspci 'lspci -Dnn'
section lspci-vv 'lspci -Dvv'
section nvme-list 'nvme list -o json'
section nvme-smart 'for d in /dev/nvme[0-9]; do nvme smart-log "$d" -o json; done'
section lscpu 'lscpu'
section numactl 'numactl -H'
section driver-module 'cat /proc/driver/nvidia/version'
section modules 'cat /proc/modules'
section cmdline 'cat /proc/cmdline'
section os 'cat /etc/os-release; uname -a; id'
section disks 'lsblk -O -J 2>/dev/null || lsblk; df -h; findmnt -J'
section pci-links 'for d in /sys/bus/pci/devices/*; do printf "%s" "${d##*/}"; for f in class vendor device current_link_speed current_link_width max_link_speed max_link_width numa_node; do printf "\t%s" "$(cat "$d/$f" 2>/dev/null)"; done; printf "\n"; done'
section kernel-log 'dmesg 2>/dev/null || journalctl -k -b --no-pager'
section dcgm 'dcgmi discovery -l'
nvidia-smi -q -x >"$out/smi.xml" 2>&1 || :

run() { # NAME SECONDS COMMAND...: a probe; what it says besides its result goes to the captures
  name=$1 limit=$2
  shift 2
  say "$name"
  printf '@@ms:section probe-%s: %s\n' "$name" "$*" >>"$captures"
  timeout -k 5 "$limit" "$@" >"$out/.$name.new" 2>>"$captures"
  code=$?
  printf '\n@@ms:rc %s\n' "$code" >>"$captures"
  if [ -s "$out/.$name.new" ]; then mv "$out/.$name.new" "$out/$name.json"; else rm -f "$out/.$name.new"; fi
  [ "$code" -eq 0 ] || say "$name ended with $code; its words are in captures.txt"
}

run bandwidth 170 "$PYTHON" "$here/files/probes/bandwidth.py" --json --nvls off --timeout 80
run soak $((soak + 60)) "$PYTHON" "$here/files/probes/soak.py" --json --seconds "$soak"
# An NVMe drive where one may be read, else the largest files at hand: PyTorch's own.
drive=$(for d in /dev/nvme*n1; do [ -r "$d" ] && echo "$d"; done | head -n 1)
[ -n "$drive" ] || drive=$("$PYTHON" -c 'import os, torch; print(os.path.dirname(torch.__file__))' 2>/dev/null || echo /usr)
run storage 60 "$PYTHON" "$here/files/probes/storage.py" --json --seconds "${STORAGE_SECONDS:-15}" --path "$drive"

say "metalserve"
cd "$here" || exit 1
timeout -k 5 90 "$PYTHON" tools/hardware_report.py "$out" --model "$model" >"$out/summary.txt" 2>&1
code=$?
cat "$out/summary.txt"
exit "$code"
