"""What cm_dagster costs: CPU seconds and ratios, printed; nothing is asserted."""
