"""Tests of campaign and site files."""
