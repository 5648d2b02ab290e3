"""Writes a lesson as files: one page, subtitles, text and JSON, aligned with its video if there is one.

Imports what ``lesson_tools`` may. Begin with ``command``. ``contents`` has what each file contains, ``page`` fills the
templates in ``lesson_page``, and ``video`` aligns a lesson with a video, by ``video_alignment`` or by the times
in ``egress_info`` and ``egress_times``.
"""
