"""A campaign at several sites as real processes, each of which goes away for a while."""
