"""Tests of parts together with real libraries: Butler, BPS, Dagster in process."""
