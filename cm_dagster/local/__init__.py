"""The embedded default: a survey, a pipeline and a workflow management system that need nothing but this package."""
