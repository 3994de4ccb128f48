"""Contracts between our own processes; they change with the minor releases."""
