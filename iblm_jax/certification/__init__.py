"""Certificates: quantise, code, score, bound, verify."""
