"""The worker process: which rooms lack a recorder, how many rooms it takes, its health, and the check of settings.

Imports ``recording`` and everything below it. Begin with ``reconciler``; ``health`` serves the health answer, and
``preflight`` is ``python agent.py check``.
"""
