"""The built-in lab (`metalserve lab up`): its hosts are read from what is up, so there is nothing to edit here."""

from metalserve.errors import MetalserveError
from metalserve.lab.inventory import lab_hosts

try:
    gpu_nodes = lab_hosts()
except MetalserveError as error:
    raise SystemExit(f"inventories/lab.py: {error}") from None
