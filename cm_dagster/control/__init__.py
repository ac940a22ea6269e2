"""What is done at a site and when: the protocols that join the ledger with the outside services.

Assets, sensors and ops call these functions and add nothing; a test can call them without a daemon.
"""
