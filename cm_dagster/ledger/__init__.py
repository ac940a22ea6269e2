"""What is kept in Dagster's storage: campaigns, plans, attempts and actions.

The only package that touches ``dagster._core``; each such use is named with its reason in the module that needs it.
"""
