"""The lab's BMCs: SIMULATED Redfish services, one a host. Their power actions really stop and boot the lab's hosts."""

from __future__ import annotations
