"""The encoder: text in, vectors out. The only place for torch.

Knows nothing of indexes, shards or routers; what an index and an encoder must agree on is
`shoal.contract`.
"""
