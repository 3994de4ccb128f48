"""One shard's server: opens a shard of an index, searches it, and hands out its passages.

The only place for faiss. Meets the other services on the wire and on the disk, never by import.
"""
