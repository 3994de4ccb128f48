"""A run as one HTML file: figures to marks (`scales`, `charts`), marks to a page (`page`)."""
