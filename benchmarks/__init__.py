"""Measures what the recorder uses and what it records, compared with the stock recipe: python dev.py bench."""
