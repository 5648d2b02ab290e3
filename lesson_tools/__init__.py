"""The commands of lessons.py for recorded lessons, and modules that several of them share.

Imports everything but the worker. Begin with ``listing``, the simplest command. ``console`` has the output of all
commands, and ``export`` writes a lesson as files.
"""
