"""Adapters of the outside services: Butler, BPS, the WMS. They know nothing of Dagster."""
