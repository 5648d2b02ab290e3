"""Full-text search over all lessons and languages: in an index on this disk, or in Postgres.

Imports ``delivery``, ``archive``, ``config`` and ``core``. Begin with ``query``; ``index`` and ``postgres`` find
segments, ``ranking`` verifies and ranks them.
The index can be deleted at any time; it is rebuilt from the folders.
"""
