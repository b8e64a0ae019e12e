"""Root file systems on this machine: made, mounted, worked in, taken apart; used by the lab and by OS templates."""
