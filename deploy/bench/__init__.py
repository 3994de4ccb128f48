"""What `shoal bench` needs of the index's files: questions drawn from it, and faiss in process."""
