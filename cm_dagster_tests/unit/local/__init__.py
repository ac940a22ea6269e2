"""Unit tests of the embedded default."""
