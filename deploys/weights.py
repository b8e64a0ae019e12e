"""Bring models onto their hosts and nothing else, while what serves there goes on serving.

pyinfra inventories/prod.py deploys/weights.py

The hosts fetch by themselves: a run that is ended or lost ends nothing there, and the next one follows what it finds.
"""

from metalserve.pyinfra_seam.role import begin
from roles import storage, weights

begin(storage.desired.watch, weights.desired.watch)

storage.storage()
weights.weights()
