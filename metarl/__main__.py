"""`python -m metarl <verb>`."""

import sys

from metarl.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
