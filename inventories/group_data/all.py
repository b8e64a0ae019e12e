"""What every host of every inventory in this directory shares; groups and hosts override it."""

from pathlib import Path

# Root by key. As another user give `_sudo = True` too, with NOPASSWD: a sudo password would stand in the host's
# process list while a command runs.
ssh_user = "root"

# An unknown or changed host key stops that host instead of being accepted, which is pyinfra's own default.
# Fill the file from a trusted place (the installer's log, the BMC's console): `ssh-keyscan` believes whoever answers.
ssh_strict_host_key_checking = "yes"
ssh_known_hosts_file = str(Path(__file__).resolve().parent.parent / "known_hosts")

# Keys come from the agent or from `ssh_key`; trying every file in ~/.ssh locks accounts out.
ssh_look_for_keys = False

# A host that is just up, or a lost packet, is worth a second try.
ssh_connect_retries = 3
ssh_connect_retry_min_delay = 0.5
ssh_connect_retry_max_delay = 3.0
