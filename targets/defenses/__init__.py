"""Defenses: what is put around a dynamic network so that an attacker wins less of its computation
back."""
