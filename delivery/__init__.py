"""Delivery of recordings to object stores and Postgres, and their removal when they are old.

Imports ``archive``, ``config`` and ``core``. Begin with ``service``, which delivers ``items`` to ``targets``
(``object_store``, ``postgres``); ``retention`` decides what may be removed, and ``erasure`` removes it.
"""
