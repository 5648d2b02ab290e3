"""The worker process around its rooms: which rooms lack a recorder, how many fit, how it is, and the first check.

Imports ``recording`` and what lies below it. Begin with ``reconciler``; ``health`` answers operators, and
``preflight`` is ``python agent.py check``.
"""
