"""The `shoal` command: one module a group of subcommands."""
