"""Sends the requests of a load test and watches the node meanwhile: the I/O of metalserve/benching."""
