"""From an inventory's serving hosts to the configuration of a router, and what a router says of its replicas."""
