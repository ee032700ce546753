"""Configs of runs, curricula and certificates; `iblm-train --list` lists them."""
