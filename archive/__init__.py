"""The folders on disk: what a room's folder holds, and the files beside it, read and written in one place.

Imports ``config`` and ``core``. Begin with ``rooms``, which reads what lessons have left, and ``outbox``, which knows
what is still to be done with each segment.
"""
