"""Tests of one part each, without services."""
