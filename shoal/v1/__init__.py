"""The public wire contract, generated from protos/shoal/v1 by `make stubs`."""
