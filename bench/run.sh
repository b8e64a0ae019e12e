#!/bin/sh
# All figures, in one run: see README.md, "Figures".
set -eu
cd "$(dirname "$0")/.."
.venv/bin/python bench/rerun.py "$@"
.venv/bin/python bench/fake_fleet.py
.venv/bin/python bench/parse_host.py
.venv/bin/python bench/report.py
