"""Recordings leave this disk: to a bucket, to Postgres, and after their time from everywhere.

Imports ``archive``, ``config`` and ``core``. Begin with ``service``, which moves ``items`` to ``targets``
(``object_store``, ``postgres``); ``retention`` says what may go.
"""
