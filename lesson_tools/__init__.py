"""The commands of lessons.py for recorded lessons: one module per command, and modules that several commands share.

Imports everything but the worker. Begin with ``listing``, the simplest command. ``console`` has the output of all
commands, and ``export`` writes a lesson as files.
"""
