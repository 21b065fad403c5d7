"""Meta-trains a policy that adapts: `python train.py --env ant-dir`."""

import sys

from metarl.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
