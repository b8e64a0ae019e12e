"""The built-in fleet: real systemd, SSH, apt and Docker; only the GPU hardware is simulated."""
