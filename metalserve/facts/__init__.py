"""pyinfra facts that fetch what the pure parsers read."""
