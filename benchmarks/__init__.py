"""What the recorder costs and what it keeps, measured against the stock recipe: python dev.py bench."""

import sys
from pathlib import Path

# The tests' ears and folders are the benchmarks', too.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
