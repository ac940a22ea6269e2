"""The assets of a campaign, one module per stage."""
