"""The vocabulary that everything else speaks: records, errors, language tags, search tokens, clocks, time limits.

Imports nothing else of the project. Begin with ``records`` (what travels from a room to a file) and ``errors`` (who
must act); ``worker_state`` holds what the worker knows of itself.
"""
