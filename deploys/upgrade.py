"""From the release that a host is on to the one that the inventory names, without losing the way back.

pyinfra inventories/prod.py deploys/upgrade.py -y                          (--dry says what would be done)
    --data release=2026.11-production     another release than the inventory's
    --limit gpu-01                        one host; `metalserve upgrade` takes a fleet in waves
"""

from metalserve.pyinfra_seam.role import begin
from roles import upgrade

begin(upgrade.desired.watch)
upgrade.upgrade()
