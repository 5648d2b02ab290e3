"""Gets the text of every segment that has none, with retries, also after a restart.

Imports ``translator``, ``archive``, ``config`` and ``core``. Begin with ``service``.
Text never changes a WAV: it is written beside it, and into ``texts.jsonl``.
"""
