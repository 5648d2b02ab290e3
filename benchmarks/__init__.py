"""What the recorder costs and what it keeps, measured against the stock recipe: python dev.py bench."""
