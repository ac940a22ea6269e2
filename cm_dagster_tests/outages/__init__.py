"""Outages of real services in the middle of a campaign: nothing is lost, done twice, or called failed."""
