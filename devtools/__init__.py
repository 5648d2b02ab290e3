"""Tools for developers: local servers, participants that speak in rooms, the worker as a process, and the demo."""
