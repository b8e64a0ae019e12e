# Enable further components of the distribution's archive, as a source of their own. Written by metalserve
# (roles/nvidia_driver); runs inside the script that mends a host, which has ms_apt, ms_fail and ms_put.
#
#   MS_COMPONENTS   "contrib non-free"
#   MS_ORIGIN       Origin of the archive in its Release files, "Debian"
#   MS_TARGET       the source file
#
# For each suite that apt reads `main` of: the same place and key, and the components that it does not read yet.
ms_apt update || ms_fail "apt-get update failed -> check the host's package sources and the network"
ms_format='$(SOURCESENTRY)|$(REPO_URI)|$(RELEASE)|$(ORIGIN)|$(COMPONENT)'
ms_read=$(apt-get indextargets --format "$ms_format" 'Created-By: Packages')
printf '%s\n' "$ms_read" | grep -q "|$MS_ORIGIN|main\$" ||
  ms_fail "no package source of this host is $MS_ORIGIN main, so $MS_COMPONENTS cannot be found -> put the archive back into /etc/apt/sources.list.d"

# ms_signed_by FILE:NUMBER: the Signed-By field of a source, as it stands there (apt before 2.9 does not tell it). The
# number is that of the line in a .list file, of the stanza in a .sources file.
ms_signed_by() {
  case "$1" in
    *.sources:*) awk -v wanted="${1##*:}" '
      /^[[:space:]]*$/ { if (filled) number++; filled = 0; inside = 0; next }
      /^#/ { next }
      { filled = 1 }
      /^[^[:space:]]/ { inside = tolower($0) ~ /^signed-by:/ }
      inside && number + 1 == wanted' "${1%:*}" ;;
    *) sed -n "${1##*:}p" "${1%:*}" | sed -n 's/^[^#]*\[[^]]*signed-by=\([^] ]*\).*/Signed-By: \1/p' ;;
  esac
}

ms_places=$(printf '%s\n' "$ms_read" | awk -F'|' -v wanted="$MS_COMPONENTS" -v origin="$MS_ORIGIN" '
  $4 != origin { next }
  { seen[$2 "|" $3 "|" $5] = 1; if ($5 == "main") entry[$2 "|" $3] = $1 }
  END {
    n = split(wanted, names, " ")
    for (place in entry) {
      missing = ""
      for (i = 1; i <= n; i++) if (!((place "|" names[i]) in seen)) missing = missing " " names[i]
      if (missing != "") printf "%s|%s|%s\n", place, entry[place], missing
    }
  }' | sort)
ms_stanzas=$(printf '%s\n' "$ms_places" | while IFS='|' read -r uri suite entry missing; do
  [ -n "$uri" ] || continue
  printf '\nTypes: deb\nURIs: %s\nSuites: %s\nComponents:%s\n' "$uri" "$suite" "$missing"
  ms_signed_by "$entry"
done)
{
  printf '%s\n' "# Written by metalserve (roles/nvidia_driver): more of the archive, for its NVIDIA driver."
  printf '%s\n' "$ms_stanzas"
} | base64 | ms_put "$MS_TARGET" 0644 root root
ms_apt update ||
  ms_fail "apt-get update failed with the components $MS_COMPONENTS -> does the host's mirror carry them?"
