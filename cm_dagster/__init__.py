"""cm_dagster: campaign management for the Rubin Observatory as a Dagster deployment."""
