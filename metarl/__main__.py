"""`python -m metarl`: the same as the command `metarl`."""

import sys

from metarl.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
