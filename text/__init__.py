"""Text for every segment: what is still without one gets it, with retries, across restarts.

Imports ``translator``, ``archive``, ``config`` and ``core``. Begin with ``service``.
Text never touches a WAV: it is written beside it, and into ``texts.jsonl``.
"""
