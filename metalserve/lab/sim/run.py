"""Started by the wrappers: `python3 -I -S run.py TOOL ARGS`; isolated from the environment of the user."""

import sys

sys.path.insert(0, "/opt/metalserve-lab")

from lib.main import main  # type: ignore[import-not-found]

main(sys.argv[1:])
