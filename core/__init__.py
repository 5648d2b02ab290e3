"""What every other package uses: records, errors, language tags, search tokens, clocks, supervised tasks, logs.

Imports nothing else of the project. Begin with ``records`` (the data that travels from a room to a file) and ``errors``
(who must act); ``worker_state`` holds the state of rooms, disk and server, and which of it is a problem.
"""
