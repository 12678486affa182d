"""`python -m lumbar`: the command line of `train_utils.py`."""

import sys

from train_utils import main

if __name__ == "__main__":
    sys.exit(main())
