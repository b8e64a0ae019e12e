"""Bring a failed host back by the steps that run on it: evidence, verdict, the smallest step, proof, the next one.

pyinfra inventories/prod.py deploys/recover.py --dry --limit node7     what would be done
pyinfra inventories/prod.py deploys/recover.py -y --limit node7

It knows no router, no BMC and no limits of the fleet: those are `metalserve recover`'s.
"""

from metalserve.pyinfra_seam.role import begin
from roles import recovery

# Without the driver's own tools: on a host where they hang each of them would take its whole minute.
begin(recovery.desired.watch, hardware=False)
if recovery.wants_main_job():
    recovery.main_job()
else:
    recovery.recovery()
