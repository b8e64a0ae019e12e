#!/bin/sh
# Stage a model: fetch every file of a list, prove each by size and SHA-256, publish the directory by one rename.
# Written by metalserve (roles/weights). POSIX sh with curl, sha256sum, flock, GNU find and xargs.
#
#   MS_STORE      directory of the model, MOUNT/ORGANISATION--NAME
#   MS_REVISION   commit; the published directory is MS_STORE/MS_REVISION
#   MS_LIST       list of files, a line each: SHA-256, size in bytes, path as in a URL, path (tabs between)
#   MS_SOURCE     base URL of the files
#   MS_RESERVE    bytes that must stay free on the file system
#   MS_JOBS       files fetched at a time
#   MS_AUTH       file with a header for the source (a token), readable by root only; may be empty
#   MS_WAIT       seconds to wait for another staging of the same model
#
# `stage.sh --check` only tells whether the published directory is what was hashed (sizes and times, no bytes read).
#
# A file counts as there only when all of its bytes were hashed in this directory; what was cut off goes on where it
# stopped. The marker .metalserve-manifest is written last, with the sizes and times of the files that were hashed.
set -eu
LC_ALL=C; export LC_ALL
umask 022
MARKER=.metalserve-manifest
PARTIAL=$MS_STORE/.partial-$MS_REVISION
PUBLISHED=$MS_STORE/$MS_REVISION
FAILED=$MS_STORE/.failed
MIB=1048576

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
# give_up STATUS WORDS: a file cannot be had. Status 255 makes xargs begin no other file, 1 lets it go on.
give_up() { status=$1; shift; printf '%s\n' "$*" >>"$FAILED"; printf '%s\n' "$*" >&2; exit "$status"; }
size_of() { stat -c %s "$1" 2>/dev/null || echo 0; }
free_bytes() { df -P -B1 "$MS_STORE" | awk 'NR==2{print $4}'; }
gib() { awk -v n="$1" 'BEGIN{printf "%.2f", n/1073741824}'; }
hash_of() { h=$(sha256sum <"$1") && printf '%s\n' "${h%% *}"; }

# listing DIRECTORY: size, time of change and name of everything in it but the marker and directories.
listing() {
  (cd "$1" && find . ! -type d ! -path "./$MARKER" -printf '%s\t%T@\t%P\n' | sort -t"$(printf '\t')" -k3)
}

# intact: the published directory is of this list, and nothing in it changed since its bytes were hashed.
intact() {
  [ -f "$PUBLISHED/$MARKER" ] && [ "$(sed -n 2p "$PUBLISHED/$MARKER")" = "list $(hash_of "$MS_LIST")" ] &&
    [ "$(listing "$PUBLISHED")" = "$(sed 1,2d "$PUBLISHED/$MARKER")" ]
}

# fetch_rest URL FILE SIZE: append to FILE what it lacks, and print the SHA-256 of the whole, hashed while it passes.
# The exit status of curl and what it said go to FILE.curl.
fetch_rest() {
  have=$(size_of "$2")
  {
    if [ "$have" -gt 0 ]; then cat "$2"; fi
    if [ "$have" -lt "$3" ]; then
      rc=0
      # No --retry: curl would send what it already sent into the pipe once more. The loop in `one` retries.
      curl -fsSL --proto '=http,https' --connect-timeout 15 --speed-limit 1024 --speed-time 60 \
        ${MS_AUTH:+-H "@$MS_AUTH"} -C "$have" --max-filesize "$3" -w '%{stderr}http=%{http_code}\n' "$1" \
        2>"$2.curl" || rc=$?
      echo "rc=$rc" >>"$2.curl"
    fi
  } | { if [ "$have" -lt "$3" ]; then tee_tail "$2" "$have"; else cat; fi; } | sha256sum | cut -d' ' -f1
}

# tee_tail FILE HAVE: pass standard input on; what comes after the first HAVE bytes is appended to FILE.
tee_tail() {
  if [ "$2" -gt 0 ]; then head -c "$2"; fi
  tee -a "$1" 2>"$1.tee"
}

# one LINE: bring the file on that line of the list into the partial directory, or say why not.
one() {
  tab=$(printf '\t')
  IFS=$tab read -r sha size url path <<LINE
$(sed -n "${1}p" "$MS_LIST")
LINE
  case "/$path/" in */../*|*/./*|*//*) give_up 1 "$path: refused, the name leads out of the model's directory" ;; esac
  target=$PARTIAL/$path
  if [ -f "$target" ] && [ "$(size_of "$target")" = "$size" ] && [ "$(hash_of "$target")" = "$sha" ]; then return 0; fi
  if [ -e "$target" ]; then say "$path: what is there is not what the manifest says; fetched again"; rm -rf "$target"; fi
  mkdir -p "$(dirname "$target")"
  part=$target.ms-part
  idle=0 wrong=0
  while :; do
    before=$(size_of "$part")
    if [ "$before" -gt "$size" ]; then rm -f "$part"; before=0; fi
    if [ "$size" -eq 0 ]; then : >"$part"; fi
    rm -f "$part.curl" "$part.tee"
    found=$(fetch_rest "$MS_SOURCE/$url" "$part" "$size")
    after=$(size_of "$part")
    if [ "$after" = "$size" ] && [ "$found" = "$sha" ]; then
      rm -f "$part.curl" "$part.tee"
      mv -f "$part" "$target"
      return 0
    fi
    said=$(grep -v '^rc=\|^http=' "$part.curl" 2>/dev/null | tail -n 1 | cut -c1-300 || :)
    rc=$(sed -n 's/^rc=//p' "$part.curl" 2>/dev/null || :)
    http=$(sed -n 's/^http=//p' "$part.curl" 2>/dev/null || :)
    if grep -q 'No space left' "$part.tee" 2>/dev/null || [ "$(free_bytes)" -lt "$MIB" ]; then
      give_up 255 "$path: disk full: $(df -hP "$MS_STORE" | tail -n 1) -> free space on it and run again; staging goes on where it stopped"
    fi
    if [ "$after" = "$size" ]; then
      # All bytes came and they are wrong: only this file is fetched again, from its first byte.
      wrong=$((wrong + 1))
      rm -f "$part"
      say "$path: SHA-256 $found, the manifest says $sha; fetched again"
      [ "$wrong" -lt 3 ] || give_up 1 "$path: the source gives wrong bytes (SHA-256 $found, expected $sha) -> compare the manifest with the source $MS_SOURCE"
      continue
    fi
    case "$http" in
      401|403) give_up 255 "$path: the source refuses it (HTTP $http) -> set model.hf_token to a token that may read the model" ;;
      404|410) give_up 1 "$path: the source does not have it (HTTP $http) -> check model.name, model.revision and model.source" ;;
    esac
    # 33 and 36: the server cannot go on in the middle; 63: it has more bytes than the manifest says.
    if [ "$http" = 416 ]; then rc=33; fi
    case "$rc" in
      33|36) rm -f "$part"; before=0 after=0 ;;
      63) give_up 1 "$path: the source has more than the $size bytes of the manifest -> make the manifest again from this revision" ;;
    esac
    if [ "$rc" = 0 ]; then
      wrong=$((wrong + 1))
      [ "$wrong" -lt 3 ] || give_up 1 "$path: the source has only $after of $size bytes -> make the manifest again from this revision"
      rm -f "$part"
    fi
    if [ "$after" -gt "$before" ]; then idle=0; else idle=$((idle + 1)); fi
    [ "$idle" -lt "${MS_TRIES:-6}" ] || give_up 255 "$path: no byte came in $idle tries: ${said:-curl exit status $rc} -> see whether the host reaches $MS_SOURCE"
    sleep "$((idle < 5 ? idle : 5))"
  done
}

# present: bytes of the list that are in the partial directory already, whole or begun.
present() {
  find "$PARTIAL" -type f ! -name "$MARKER" ! -name '*.ms-part.*' -printf '%s\n' 2>/dev/null | awk '{n+=$1} END{printf "%.0f\n", n}'
}

progress() {
  last=$(present) began=$(date +%s)
  first=$last
  while sleep "${MS_PROGRESS_S:-10}"; do
    now=$(present) t=$(date +%s)
    awk -v now="$now" -v first="$first" -v all="$TOTAL" -v s="$((t - began))" 'BEGIN {
      rate = s > 0 ? (now - first) / s : 0
      left = rate > 0 ? sprintf(", about %d s left", (all - now) / rate) : ""
      printf "staged %.2f of %.2f GiB, %.1f MiB/s%s\n", now / 1073741824, all / 1073741824, rate / 1048576, left }'
  done
}

case "${1:-}" in
  --one) one "$2"; exit 0 ;;
  --check) if intact; then exit 0; fi; fail "$PUBLISHED is not there, or not as it was when its bytes were proved -> run the weights role" ;;
esac

mkdir -p "$MS_STORE"
exec 9>"$MS_STORE/.lock"
if ! flock -n 9; then
  say "another run stages this model; waiting for it"
  flock -w "${MS_WAIT:-14400}" 9 || fail "another run still stages this model after ${MS_WAIT:-14400} s -> see what it does: fuser -v $MS_STORE/.lock"
fi

if intact; then say "$PUBLISHED is published and intact"; exit 0; fi

# What is published but not as it was when it was hashed goes back to being partial: every file of it is hashed again.
if [ -d "$PUBLISHED" ]; then
  rm -rf "$PARTIAL"
  mv -T "$PUBLISHED" "$PARTIAL"
  say "$PUBLISHED is no longer as it was published: withdrawn, and checked file by file"
fi
mkdir -p "$PARTIAL"
rm -f "$PARTIAL/$MARKER" "$FAILED"
find "$PARTIAL" -type f \( -name '*.ms-part.curl' -o -name '*.ms-part.tee' \) -delete
# Nothing may lie in the directory that is not in the list: engines load whatever has the right suffix.
find "$PARTIAL" ! -type f ! -type d -exec rm -f {} +
cut -f4 "$MS_LIST" | sort >"$MS_STORE/.wanted"
(cd "$PARTIAL" && find . -type f -printf '%P\n') | while IFS= read -r name; do
  grep -qxF -- "${name%.ms-part}" "$MS_STORE/.wanted" || { say "$name: not in the manifest; removed"; rm -f "$PARTIAL/$name"; }
done

TOTAL=$(awk -F'\t' '{n+=$2} END{printf "%.0f\n", n}' "$MS_LIST")
missing=$((TOTAL - $(present)))
available=$(free_bytes)
if [ "$((missing + MS_RESERVE))" -gt "$available" ]; then
  fail "not enough space on $MS_STORE: $(gib "$missing") GiB to fetch and $(gib "$MS_RESERVE") GiB to stay free, but only $(gib "$available") GiB are free -> remove models that are no longer served, or take a larger drive"
fi
say "staging $(wc -l <"$MS_LIST") files, $(gib "$TOTAL") GiB, $(gib "$missing") GiB of it to fetch"

progress & reporter=$!
trap 'kill "$reporter" 2>/dev/null || :' EXIT
trap 'exit 130' INT; trap 'exit 143' TERM HUP
export MS_STORE MS_REVISION MS_LIST MS_SOURCE MS_AUTH
# Largest first, so that no large file is begun when all others are done. In the background, so that a signal is heeded.
awk -F'\t' '{print $2 "\t" NR}' "$MS_LIST" | sort -rn | cut -f2 | xargs -r -n 1 -P "${MS_JOBS:-4}" sh "$0" --one &
done=0
wait "$!" || done=$?
kill "$reporter" 2>/dev/null || :
if [ "$done" -ne 0 ]; then
  say "$(find "$PARTIAL" -type f -name '*.ms-part' | wc -l) file(s) are not whole; what came is kept, the next run goes on from it"
  fail "$(sed -n 1p "$FAILED" 2>/dev/null || :)"
fi

# The marker: what was hashed, with the times the files have now. Any later change of a byte changes a time or a size.
find "$PARTIAL" -type f -name '*.ms-part*' -delete
chmod -R u=rwX,go=rX "$PARTIAL"
{
  say "metalserve-manifest 1"
  say "list $(hash_of "$MS_LIST")"
  listing "$PARTIAL"
} >"$MS_STORE/.marker.new"
[ "$(grep -c "$(printf '\t')" "$MS_STORE/.marker.new")" -eq "$(wc -l <"$MS_LIST")" ] || fail "files are missing after staging: this is a fault of metalserve"
mv -f "$MS_STORE/.marker.new" "$PARTIAL/$MARKER"
sync -f "$PARTIAL"
mv -T "$PARTIAL" "$PUBLISHED"
sync -f "$MS_STORE"
rm -f "$MS_STORE/.wanted"
say "published $PUBLISHED"
