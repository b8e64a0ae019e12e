"""pyinfra facts that fetch what the pure parsers read, for deploys of one's own."""
