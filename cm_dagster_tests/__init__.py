"""Tests of cm_dagster."""
