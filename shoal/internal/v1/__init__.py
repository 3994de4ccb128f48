"""The internal wire contract, generated from protos/shoal/internal/v1 by `make stubs`."""
