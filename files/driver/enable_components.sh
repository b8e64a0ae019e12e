# Enable further components of the distribution's archive, as a source of their own. Written by metalserve
# (roles/nvidia_driver); runs inside the script that mends a host, which has ms_apt, ms_fail and ms_put.
#
#   MS_COMPONENTS   "contrib non-free"
#   MS_ORIGIN       Origin of the archive in its Release files, "Debian"
#   MS_TARGET       the source file
#
# For each suite that apt reads `main` of: the same place and key, and those of the components that it does not read yet.
ms_apt update || ms_fail "apt-get update failed -> check the host's package sources and the network"
ms_format='$(REPO_URI)|$(RELEASE)|$(SIGNED_BY)|$(ORIGIN)|$(COMPONENT)'
ms_read=$(apt-get indextargets --format "$ms_format" 'Created-By: Packages')
printf '%s\n' "$ms_read" | grep -q "|$MS_ORIGIN|main\$" ||
  ms_fail "no package source of this host is $MS_ORIGIN main, so $MS_COMPONENTS cannot be found -> put the archive back into /etc/apt/sources.list.d"
ms_stanzas=$(printf '%s\n' "$ms_read" | awk -F'|' -v wanted="$MS_COMPONENTS" -v origin="$MS_ORIGIN" '
  $4 != origin { next }
  { seen[$1 "|" $2 "|" $5] = 1; if ($5 == "main") key[$1 "|" $2] = $3 }
  END {
    n = split(wanted, names, " ")
    for (place in key) {
      missing = ""
      for (i = 1; i <= n; i++) if (!((place "|" names[i]) in seen)) missing = missing " " names[i]
      if (missing == "") continue
      split(place, part, "|")
      printf "\nTypes: deb\nURIs: %s\nSuites: %s\nComponents:%s\n", part[1], part[2], missing
      if (key[place] != "") printf "Signed-By: %s\n", key[place]
    }
  }')
{
  printf '%s\n' "# Written by metalserve (roles/nvidia_driver): more of the archive, for its NVIDIA driver."
  printf '%s\n' "$ms_stanzas"
} | base64 | ms_put "$MS_TARGET" 0644 root root
ms_apt update ||
  ms_fail "apt-get update failed with the components $MS_COMPONENTS -> does the host's mirror carry them?"
