"""What runs on each node, for people who must sign for it: out of the inventory, its releases and the runs' reports.

Nothing is asked of a host here. What nobody saw is said to be unseen; what nobody knows is unknown.
"""
