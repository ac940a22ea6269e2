"""Tests of the whole with real servers and processes."""
