"""Pure planning: how a step is cut into groups, and what everything is called."""
