"""The router's HTTP port: the console, and `POST /retrieve`. Off unless asked for."""
