"""A long lecture in real time with faults sprinkled in, and the ledger of every word: python dev.py soak."""

import sys
from pathlib import Path

# The tests' ears are the soak's, too.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
