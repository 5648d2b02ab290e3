"""The recording of one room: who is a teacher, which tracks are subscribed to, and how each segment is written.

Imports ``storage``, ``audio_processor``, ``archive``, ``config`` and ``core``; neither ``text`` nor ``delivery`` nor
``worker``. Begin with ``room_recorder``, then follow a segment into ``segment_writer``.
"""
