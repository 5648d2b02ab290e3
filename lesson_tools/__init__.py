"""The commands of lessons.py for recorded lessons: one module a command, and modules that several commands share.

Imports everything but ``worker``. Begin with ``listing``, the simplest command; ``console`` prints for all of them,
and ``export`` writes a lesson as a page, subtitles or audio.
"""
