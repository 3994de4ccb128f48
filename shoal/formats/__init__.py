"""The index on disk: what every process and every release agrees on."""
