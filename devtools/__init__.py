"""What developers run: a local livekit-server, people who speak in rooms, the worker as a process, and the demo."""
