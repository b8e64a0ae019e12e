"""The simulated tools of a lab host. They run inside the guest on its own Python: standard library only, few imports.

One observation calls about ten of them, so they avoid the slow imports (dataclasses, pathlib, argparse, typing).
Everything here answers for hardware that does not exist; README.md of the lab says what is real and what is not.
"""
