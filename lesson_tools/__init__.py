"""The commands behind lessons.py, for lessons that are over: one module a command, and what several of them share.

Imports everything but the worker. Begin with ``listing``, the simplest command; ``console`` is how all of them speak,
and ``export`` makes a lesson something to read, hear and share.
"""
