"""A lesson as files: one page, subtitles, text, JSON, lined up with its video if there is one.

Imports what ``lesson_tools`` may. Begin with ``command``; ``page`` fills the templates in ``lesson_page``, and
``video_alignment`` or ``egress_times`` find the lesson in a video.
"""
