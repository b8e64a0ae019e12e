# The installer of OS templates: sourced by the ramdisk's init (initramfs-tools, boot=deploy), which calls mountroot.
# POSIX sh. It asks the boot server for permission, checks the signed manifest, writes the image to the disk of the
# serial that was ordered, reads it back, makes the system's SSH host keys on it, says how it went and which public keys
# it has now, and reboots. Nothing is written before all checks are good.
#
# Kernel arguments: ms_server=URL; ms_readback=0 leaves out reading the disk back.
#
# The places below are other ones in the tests.
# shellcheck shell=sh disable=SC2015,SC2013
MS_SYS=${MS_SYS:-/sys}
MS_DEV=${MS_DEV:-/dev}
MS_PROC=${MS_PROC:-/proc}
MS_KEYS=${MS_KEYS:-/etc/metalserve/keys}
MS_WORK=${MS_WORK:-/run/metalserve}
MS_PAUSE=${MS_PAUSE:-10}

say() { printf 'metalserve installer: %s (%s s)\n' "$*" "$(cut -d' ' -f1 "$MS_PROC/uptime" 2>/dev/null)"; }

# argument NAME DEFAULT: a kernel argument.
argument() {
  found=$2
  for word in $(cat "$MS_PROC/cmdline"); do
    case $word in "$1="*) found=${word#*=} ;; esac
  done
  printf '%s' "$found"
}

# content FILE: what a file of /sys says, without the blanks that firmware pads with; nothing when it is not there.
content() { [ ! -r "$1" ] || tr -d '\000' <"$1" 2>/dev/null | sed 's/^ *//; s/ *$//' | head -n 1; }

# serial_of NAME: the serial number of a disk.
serial_of() {
  for file in device/serial serial; do
    told=$(content "$MS_SYS/block/$1/$file")
    [ -z "$told" ] || { printf '%s' "$told"; return 0; }
  done
  command -v udevadm >/dev/null 2>&1 || return 0
  udevadm info --query=property --name="/dev/$1" 2>/dev/null |
    sed -n 's/^ID_SCSI_SERIAL=//p; s/^ID_SERIAL_SHORT=//p' | head -n 1
}

# names: the disks that could be written: no CD, no RAM disk, no second path to one that is listed, none read-only.
names() {
  for path in "$MS_SYS"/block/*; do
    name=${path##*/}
    case $name in loop* | ram* | zram* | sr* | dm-* | md* | fd* | nbd* | '*') continue ;; esac
    [ "$(content "$path/hidden")" != 1 ] && [ "$(content "$path/ro")" != 1 ] || continue
    [ "$(content "$path/removable")" != 1 ] && [ "$(content "$path/size")" != 0 ] || continue
    printf '%s\n' "$name"
  done
}

disks() {
  names | while read -r name; do
    jq -n --arg serial "$(serial_of "$name")" --arg sectors "$(content "$MS_SYS/block/$name/size")" \
      --arg model "$(content "$MS_SYS/block/$name/device/model")" --arg name "$name" \
      '{serial: $serial, size_bytes: (($sectors | tonumber) * 512), model: $model, name: $name}'
  done | jq -s .
}

machine() {
  dmi=$MS_SYS/class/dmi/id
  for path in "$MS_SYS"/class/net/*; do
    [ -e "$path/device" ] && content "$path/address"
  done | jq -R . | jq -s --arg serial "$(content "$dmi/product_serial")" --arg uuid "$(content "$dmi/product_uuid")" \
    '{serial: $serial, uuid: $uuid, macs: .}'
}

# fetch URL FILE LIMIT: an answer that is an error page must not be taken for a file.
fetch() { curl -sSf --retry 5 --retry-connrefused --retry-delay 2 --max-time 120 --max-filesize "$3" -o "$2" "$1"; }

# post PATH FILE ANSWER: send JSON; the answer's words are kept whatever its status.
post() {
  curl -sS --retry 8 --retry-connrefused --retry-delay 3 --max-time 60 --max-filesize 65536 \
    -H 'Content-Type: application/json' --data-binary "@$2" -o "$3" "$SERVER$1"
}

get() { jq -r "$1 // empty" "$2" 2>/dev/null; }

# permission: ask; without a clear yes nothing is written.
permission() {
  disks >"$MS_WORK/disks.json"
  machine >"$MS_WORK/machine.json"
  jq -n --slurpfile identity "$MS_WORK/machine.json" --slurpfile disks "$MS_WORK/disks.json" \
    '{identity: $identity[0], disks: $disks[0]}' >"$MS_WORK/asked.json"
  post /v1/permission "$MS_WORK/asked.json" "$MS_WORK/grant.json" || { REASON="the boot server does not answer"; return 1; }
  [ "$(get '.write | tostring' "$MS_WORK/grant.json")" = true ] || {
    REASON="not permitted: $(get .reason "$MS_WORK/grant.json")"
    return 1
  }
  ORDER=$(get .order "$MS_WORK/grant.json")
  TOKEN=$(get .token "$MS_WORK/grant.json")
}

# signed: the manifest, and that a key which is built in signed it as this build of this template.
signed() {
  name=$(get .template "$MS_WORK/grant.json")
  build=$(get .build "$MS_WORK/grant.json")
  fetch "$(get .manifest "$MS_WORK/grant.json")" "$MS_WORK/manifest.json" 1048576 &&
    fetch "$(get .signature "$MS_WORK/grant.json")" "$MS_WORK/manifest.json.minisig" 16384 || {
    REASON="the manifest cannot be fetched"
    return 1
  }
  for key in "$MS_KEYS"/*.pub; do
    comment=$(minisign -VQ -p "$key" -m "$MS_WORK/manifest.json" -x "$MS_WORK/manifest.json.minisig" 2>/dev/null) || continue
    [ "$comment" = "metalserve template $name $build" ] && [ "$(get .name "$MS_WORK/manifest.json")" = "$name" ] &&
      [ "$(get .build "$MS_WORK/manifest.json")" = "$build" ] || {
      REASON="the manifest is signed as another build: $comment"
      return 1
    }
    SIZE=$(get .raw.size "$MS_WORK/manifest.json")
    RAW=$(get .raw.sha256 "$MS_WORK/manifest.json")
    STREAM=$(get '.files["disk.raw.zst"].sha256' "$MS_WORK/manifest.json")
    LENGTH=$(get '.files["disk.raw.zst"].size' "$MS_WORK/manifest.json")
    say "manifest of $name $build is signed by ${key##*/}"
    return 0
  done
  REASON="the manifest is not signed by a key of this installer"
  return 1
}

# target: the disk of the ordered serial, as this kernel names it now.
target() {
  serial=$(get .disk "$MS_WORK/grant.json")
  DISK='' many=0
  for name in $(names); do
    [ "$(serial_of "$name")" = "$serial" ] || continue
    DISK=$MS_DEV/$name many=$((many + 1))
    sectors=$(content "$MS_SYS/block/$name/size")
  done
  [ "$many" = 1 ] && [ -n "$serial" ] || {
    REASON="$many disks have the serial $serial"
    return 1
  }
  # the kernel counts sectors of 512 bytes, whatever the disk's own are; sh counts to 2^63
  [ $((sectors * 512)) -ge "$SIZE" ] || {
    REASON="disk $serial has $((sectors * 512)) bytes, the image $SIZE"
    return 1
  }
  END=$((sectors * 512))
}

# empty: what is left of an old table or array must not be found again, least of all behind the image.
empty() {
  SPARSE=,sparse
  blkdiscard -f "$DISK" 2>/dev/null || {
    gnu-dd if=/dev/zero of="$DISK" bs=1M count=16 conv=fsync,notrunc 2>/dev/null
    gnu-dd if=/dev/zero of="$DISK" bs=1M count=1 seek="$((END - 1048576))" oflag=seek_bytes conv=fsync,notrunc 2>/dev/null
  }
  # A discarded block need not read as zeros; where the disk cannot zero them itself, every block is written.
  blkdiscard -f -z -l "$SIZE" "$DISK" 2>/dev/null || SPARSE=
}

# image: stream it. The hash of the stream is made on the way; each stage's failure is a file.
image() {
  rm -f "$MS_WORK"/failed.* "$MS_WORK/pipe"
  mkfifo "$MS_WORK/pipe"
  sha256sum <"$MS_WORK/pipe" >"$MS_WORK/stream.sha" &
  hasher=$!
  { curl -sSf --connect-timeout 30 --speed-limit 1000 --speed-time 60 --max-filesize "$LENGTH" \
    "$(get .image "$MS_WORK/grant.json")" || : >"$MS_WORK/failed.fetching"; } |
    tee "$MS_WORK/pipe" |
    { zstd -dcq || { : >"$MS_WORK/failed.uncompressing"; cat >/dev/null; }; } |
    { gnu-dd of="$DISK" bs=4M iflag=fullblock conv="fsync,notrunc$SPARSE" 2>"$MS_WORK/dd.log" ||
      { : >"$MS_WORK/failed.writing"; cat >/dev/null; }; }
  wait "$hasher"
  for failed in "$MS_WORK"/failed.*; do
    [ ! -e "$failed" ] || { REASON="${failed##*.} failed: $(tail -n 1 "$MS_WORK/dd.log")"; return 1; }
  done
  [ "$(cut -d' ' -f1 "$MS_WORK/stream.sha")" = "$STREAM" ] || {
    REASON="the image has SHA-256 $(cut -d' ' -f1 "$MS_WORK/stream.sha"), the manifest says $STREAM"
    return 1
  }
}

# readback: what the disk gives, not what was sent to it.
readback() {
  [ "$(argument ms_readback 1)" != 0 ] || return 0
  sync
  echo 3 2>/dev/null >"$MS_PROC/sys/vm/drop_caches"
  got=$(gnu-dd if="$DISK" bs=4M iflag=count_bytes,fullblock count="$SIZE" 2>/dev/null | sha256sum | cut -d' ' -f1)
  [ "$got" = "$RAW" ] || { REASON="the disk gives SHA-256 $got, the manifest says $RAW"; return 1; }
}

# wipe: half an image must not boot.
wipe() {
  gnu-dd if=/dev/zero of="$DISK" bs=1M count=16 conv=fsync,notrunc 2>/dev/null &&
    gnu-dd if=/dev/zero of="$DISK" bs=1M count=1 seek="$((END - 1048576))" oflag=seek_bytes conv=fsync,notrunc 2>/dev/null
}

# host_keys: made on the written disk by the system's own ssh-keygen, so that the private ones are nowhere else, and the
# controller learns the public ones with the result. Not to have them is no failure: the first boot makes what is lacking.
host_keys() {
  blockdev --rereadpt "$DISK" 2>/dev/null || sleep 2
  udevadm settle --timeout=30 2>/dev/null
  modprobe -q ext4
  mkdir -p "$MS_WORK/system"
  for path in "$MS_SYS/block/${DISK##*/}"/*/partition; do
    part=${path%/partition} part=$MS_DEV/${part##*/}
    [ "$(blkid -o value -s TYPE "$part" 2>/dev/null)" = ext4 ] && mount -t ext4 "$part" "$MS_WORK/system" || continue
    make_keys "$MS_WORK/system" >"$MS_WORK/keys.pub"
    made=$?
    sync
    umount "$MS_WORK/system/dev" 2>/dev/null
    umount "$MS_WORK/system" || say "$part stays mounted"
    [ "$made" = 0 ] || continue
    # the server refuses a result as a whole if it has a line that is no key
    jq -R 'split(" ")[0:2] | join(" ") |
      select(test("^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]{40,2000}={0,3}$"))' \
      "$MS_WORK/keys.pub" | head -n 8 | jq -s . >"$MS_WORK/host-keys.json"
    return 0
  done
}

# make_keys ROOT: keys that an image should carry, and does not, go: every machine would have them.
make_keys() {
  mount -t devtmpfs dev "$1/dev" &&
    chroot "$1" /bin/sh -c 'rm -f /etc/ssh/ssh_host_*_key* && ssh-keygen -A >/dev/null && cat /etc/ssh/ssh_host_*_key.pub'
}

# result STATUS WORDS: before the reboot, since afterwards nobody is left who could say it.
result() {
  [ -s "$MS_WORK/host-keys.json" ] || echo '[]' >"$MS_WORK/host-keys.json"
  jq -n --arg order "$ORDER" --arg token "$TOKEN" --arg status "$1" --arg words "$2" \
    --slurpfile keys "$MS_WORK/host-keys.json" \
    '{order: $order, token: $token, status: $status, words: $words, host_keys: $keys[0]}' >"$MS_WORK/result.json"
  post /v1/result "$MS_WORK/result.json" "$MS_WORK/taken.json" || say "the boot server did not take the result"
}

restart() {
  sync
  say "rebooting in $MS_PAUSE s"
  sleep "$MS_PAUSE"
  reboot -f
  sleep 5
  echo b >"$MS_PROC/sysrq-trigger"
  sleep 60
}

# deploy: everything in order; REASON says why not.
deploy() {
  REASON='' ORDER='' TOKEN=''
  mkdir -p "$MS_WORK"
  rm -f "$MS_WORK/host-keys.json"
  SERVER=$(argument ms_server '')
  [ -n "$SERVER" ] || { REASON="no ms_server= among the kernel's arguments"; say "$REASON"; return 1; }
  say "asking $SERVER for permission"
  permission || { say "$REASON; nothing was written"; MS_PAUSE=$((MS_PAUSE * 3)); return 1; }
  { signed && target; } || {
    say "$REASON; nothing was written"
    result bad "nothing was written: $REASON"
    return 1
  }
  say "writing to $DISK"
  empty
  { image && readback; } || {
    say "$REASON; wiping the first blocks"
    if wipe; then result bad "wiped: $REASON"; else result bad "could not be wiped either: $REASON"; fi
    return 1
  }
  say "written and verified"
  host_keys
  known=$(get length "$MS_WORK/host-keys.json")
  say "SSH host keys that the server will know: ${known:-0}"
  seconds=$(cut -d' ' -f1 "$MS_PROC/uptime")
  result ok "$SIZE bytes on $DISK, ${known:-0} host keys, $seconds s after the start of the installer's kernel"
}

mountroot() {
  modprobe -q nvme
  wait_for_udev 30
  configure_networking
  deploy
  # Whatever happened: init must not go on to look for a root file system.
  while :; do restart; done
}
