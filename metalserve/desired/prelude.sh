# Functions for the scripts that mend a host. POSIX sh, run as root with `set -eu`.
# The last line that begins with "@@ms:step" tells which change was being made when a script stopped.
LC_ALL=C DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL DEBIAN_FRONTEND NEEDRESTART_MODE PATH
umask 022
MS_RUN=${MS_RUN:-/run/metalserve}

ms_step() { printf '@@ms:step %s\n' "$1"; }
ms_fail() { printf '%s\n' "$1" >&2; exit 1; }

# ms_apply_lock: only one mending script at a time, also when one was left running by a run that was cut off.
# File descriptor 8 holds it. The changes themselves run without it (see render.py): a daemon that a package starts
# would otherwise keep the host locked for as long as it lives.
ms_apply_lock() {
  mkdir -p "$MS_RUN"
  exec 8>>"$MS_RUN/apply"
  flock -w "${MS_LOCK_TIMEOUT:-600}" 8 ||
    ms_fail "a script that an earlier run left on this host is still at work ($(cat "$MS_RUN/applying" 2>/dev/null)) -> wait for it or end it, then run again"
  printf 'process %s since %s\n' "$$" "$(date '+%Y-%m-%d %H:%M:%S %Z')" >"$MS_RUN/applying"
}

# ms_put PATH MODE OWNER GROUP: standard input becomes the file, whole or not at all.
ms_put() {
  ms_dir=$(dirname "$1")
  mkdir -p "$ms_dir"
  ms_new=$(mktemp "$ms_dir/.metalserve.XXXXXXXX")   # mktemp makes it 0600: no moment at which others can read it
  if base64 -d >"$ms_new" && chown "$3:$4" "$ms_new" && chmod "$2" "$ms_new" && sync "$ms_new" &&
    mv -fT "$ms_new" "$1"; then
    sync "$ms_dir"
  else
    rm -f "$ms_new"; ms_fail "could not write $1 (disk full?): $(df -h "$ms_dir" | tail -n 1)"
  fi
}

# ms_apt ARGS: apt-get that waits for another process' lock, up to MS_LOCK_TIMEOUT seconds in real time.
ms_apt() {
  ms_deadline=$(( $(date +%s) + ${MS_LOCK_TIMEOUT:-600} ))
  ms_log=$(mktemp "$MS_RUN/apt.XXXXXXXX")
  while :; do
    ms_rc=0
    apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=5 -o APT::Install-Recommends=false \
      -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@" >"$ms_log" 2>&1 || ms_rc=$?
    if [ "$ms_rc" -ne 0 ] && grep -qE 'Could not get lock|Unable to acquire the dpkg frontend lock|Unable to lock' "$ms_log"; then
      ms_holder=$(grep -oE 'held by process [0-9]+( \([^)]*\))?' "$ms_log" | head -n 1)
      if [ "$(date +%s)" -ge "$ms_deadline" ]; then
        rm -f "$ms_log"
        ms_fail "apt is locked: ${ms_holder:-held by another process} after ${MS_LOCK_TIMEOUT:-600} s -> wait for it or stop it, then run again"
      fi
      echo "waiting for the apt lock: ${ms_holder:-held by another process}"
      sleep 3
      continue
    fi
    break
  done
  grep -vE '^(Get:|Hit:|Selecting|Preparing|Unpacking|\(Reading)' "$ms_log" | tail -n 40 || :
  rm -f "$ms_log"
  return "$ms_rc"
}

# ms_offers: standard input (`apt-cache madison PACKAGE`) becomes words: the versions, newest first, and where they are.
# A version without an epoch has epoch 0; what comes from several repositories is named once.
ms_offers() {
  awk -F'|' 'NF >= 3 { gsub(/ /, "", $2); split($3, from, " "); if ($2 !~ /^[0-9]+:/) $2 = "0:" $2; print $2, from[1] }' |
    sort -k1,1rV -k2,2 | awk '
      !($1 in seen) { seen[$1] = 1; version = $1; sub(/^0:/, "", version); n++
        if (n <= 12) versions = versions (n > 1 ? ", " : "") version }
      !($2 in places) { places[$2] = 1; from = from (from == "" ? "" : ", ") $2 }
      END { if (n > 12) versions = versions " and " n - 12 " older"; if (n) print versions " (in " from ")" }'
}

# ms_version PACKAGE WANTED: print the full version in the repositories that is WANTED or begins with it.
ms_version() {
  ms_madison=$(apt-cache madison "$1" 2>/dev/null) || ms_madison=
  for ms_v in $(printf '%s\n' "$ms_madison" | awk -F'|' '{gsub(/ /,"",$2); print $2}'); do
    ms_bare=${ms_v#*:}
    case "$ms_bare" in "$2"|"$2"-*|"$2"+*|"$2"~*) printf '%s\n' "$ms_v"; return 0 ;; esac
    [ "$ms_v" = "$2" ] && { printf '%s\n' "$ms_v"; return 0; }
  done
  ms_has=$(printf '%s\n' "$ms_madison" | ms_offers)
  ms_fail "the host's repositories have no $1 $2; they have: ${ms_has:-no version of it} -> check the release and repositories.nvidia.url"
}

# ms_missing PACKAGE...: after a failed installation, stop with the first package that no repository has.
ms_missing() {
  for ms_name in "$@"; do
    apt-cache show "$ms_name" >/dev/null 2>&1 && continue
    ms_near=$(apt-cache pkgnames "${ms_name%-*}-" 2>/dev/null | sort -rV | head -n 20 | tr '\n' ' ')
    ms_fail "the host's repositories have no package $ms_name${ms_near:+; near it they have: ${ms_near% }} -> check the release and the repositories"
  done
}

# ms_key PATH FINGERPRINT: standard input (ASCII armour or binary) becomes the keyring if it has that fingerprint.
ms_key() {
  mkdir -p "$(dirname "$1")"
  ms_new=$(mktemp "$MS_RUN/key.XXXXXXXX")
  cat >"$ms_new"
  ms_found=$(gpg --batch --show-keys --with-colons "$ms_new" 2>/dev/null | awk -F: '/^pub:/{p=1} /^fpr:/&&p{print toupper($10); p=0}' | tr '\n' ' ')
  case " $ms_found" in
    *" $2 "*) ;;
    *) rm -f "$ms_new"; ms_fail "the key for $1 has fingerprint(s) '${ms_found:-none}', expected $2 -> check repositories.*.key; nothing was installed" ;;
  esac
  if ! grep -q 'BEGIN PGP PUBLIC KEY BLOCK' "$ms_new"; then
    gpg --batch --enarmor <"$ms_new" 2>/dev/null | sed 's/PGP ARMORED FILE/PGP PUBLIC KEY BLOCK/; /^Comment:/d' >"$ms_new.asc" && mv "$ms_new.asc" "$ms_new"
  fi
  chmod 0644 "$ms_new"
  base64 "$ms_new" | ms_put "$1" 0644 root root
  rm -f "$ms_new"
}
