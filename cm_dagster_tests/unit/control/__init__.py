"""Tests of what joins ledger and services, without either."""
