"""For every test: hypothesis that neither fails because the machine is busy nor, in CI, by a draw nobody can repeat."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("default", deadline=None)
# derandomised, the same examples come each time: more of them find nothing new, they only take time
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True, max_examples=40)
settings.load_profile("ci" if os.environ.get("CI") else "default")
