"""The only place that touches the inside of pyinfra."""
