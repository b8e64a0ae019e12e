"""Metrics of all hosts that have `monitoring` settings, and the host that watches them.

pyinfra inventories/prod.py deploys/monitoring.py

Run it over the whole inventory: which engines a serving host has is read there. With `--limit MONITOR` the targets of
the others stay as they were.
"""

from metalserve.pyinfra_seam.role import begin
from roles import monitoring, node_metrics

begin(node_metrics.desired.watch, monitoring.desired.watch)

node_metrics.node_metrics()
monitoring.monitoring()
