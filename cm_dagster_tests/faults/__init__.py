"""Faults of every kind, put to a whole deployment: real daemons, ledger, Butler, submitter; a fake WMS and cluster."""
