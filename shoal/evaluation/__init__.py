"""Retrieval quality through a running cluster, against relevance judgments."""
