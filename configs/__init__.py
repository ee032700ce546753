"""Configs of runs, curricula and certificates: see `iblm-train --list`."""
