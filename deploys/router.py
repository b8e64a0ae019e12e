"""One address for the fleet, on the hosts that have `router` settings; the others are only looked at.

pyinfra inventories/prod.py deploys/router.py

Run it over the whole inventory: which engines a serving host has is read there. With `--limit ROUTER` the replicas of
the others stay as they were.
"""

from metalserve.pyinfra_seam.role import begin
from roles import router

begin(router.desired.watch)

router.router()
