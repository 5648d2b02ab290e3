"""The rooms' folders on disk: every file in them, and the files beside them, is read and written here.

Imports ``config`` and ``core``. Begin with ``rooms``, which reads recorded lessons; then ``outbox``, which lists the
work that is still to be done for each segment.
"""
