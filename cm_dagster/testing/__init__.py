"""Helpers for tests of a deployment, for others too."""
