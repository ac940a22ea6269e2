"""A campaign of sixty groups that nobody touches: limits, faults of each class, error rules, judgement."""
