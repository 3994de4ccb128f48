"""What starts, watches and asks the processes; above all other packages, imported by none."""
