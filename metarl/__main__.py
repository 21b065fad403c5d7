"""`python -m metarl <verb>`."""

import sys

from metarl.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
