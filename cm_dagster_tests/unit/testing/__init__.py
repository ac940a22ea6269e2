"""Tests of what helps with testing."""
