"""One room while it is recorded: who is a teacher, which tracks are recorded, and what is done with each segment.

Imports ``storage``, ``audio_processor``, ``archive``, ``config`` and ``core``; neither ``text`` nor ``delivery`` nor
``worker``. Begin with ``room_recorder``, then follow a segment into ``segment_writer``.
"""
