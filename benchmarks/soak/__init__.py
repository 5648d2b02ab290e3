"""Records a long lecture in real time with faults in between, and checks every word: python dev.py soak."""
