"""Full-text search over all lessons and languages: in an index on this disk, or in Postgres.

Imports ``delivery``, ``archive``, ``config`` and ``core``. Begin with ``index``.
The index can be deleted at any time; it is rebuilt from the folders.
"""
