"""The parts of the worker process around its rooms: which rooms lack a recorder, how many fit, services, stop, health.

Imports every package but ``lesson_tools``. Begin with ``reconciler``; ``services`` starts text and delivery,
``handover`` passes rooms on when the worker stops, ``health`` answers operators, and ``preflight`` is
``python agent.py check``.
"""
