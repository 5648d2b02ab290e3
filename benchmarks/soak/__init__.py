"""A long lecture in real time with faults sprinkled in, and the ledger of every word: python dev.py soak."""
