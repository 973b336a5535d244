"""`python -m exporters.evaluation`: see `report.py`."""

import sys

from exporters.evaluation.report import main

if __name__ == "__main__":
    sys.exit(main())
