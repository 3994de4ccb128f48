"""Training from the command line: data by name, and the curve."""
