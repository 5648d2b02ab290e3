"""One room while it is recorded: who is a teacher, which tracks are listened to, what becomes of each segment.

Imports ``storage``, ``audio_processor``, ``archive``, ``config`` and ``core``; knows neither text nor delivery nor the
worker around it. Begin with ``room_recorder``, then follow a segment into ``segment_writer``.
"""
