"""The router: admit, encode, fan out, merge, fetch, answer."""
