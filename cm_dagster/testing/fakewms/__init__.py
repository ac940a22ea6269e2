"""A workflow management system that runs nothing and does what a test says, also wrongly, behind BPS's interface.

``store.py`` is the system: its state is a folder that many processes use at once. ``service.py`` is the BPS plugin,
``bps.py`` a stand-in for the program ``bps`` that makes a submission cost milliseconds. See docs/testing.md.
"""
