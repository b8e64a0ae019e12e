"""`python -m metalserve` and the `metalserve` command."""

from __future__ import annotations

import sys

from metalserve.cli import main as cli_main


def main() -> None:
    """Run the command line; exits with its status."""
    sys.exit(cli_main())


if __name__ == "__main__":
    main()
