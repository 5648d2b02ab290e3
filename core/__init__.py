"""What all other packages use: records, errors, language tags, search tokens, clocks, supervised tasks, metrics.

Imports nothing else of the project. Begin with ``records`` (what is stored about rooms, tracks and segments) and
``errors`` (who must act); ``worker_state`` counts what the worker does and lists its problems.
"""
