"""What `bench/fanout.py` is made of: links, the ways to share a model over them, and the processes on the hosts."""
