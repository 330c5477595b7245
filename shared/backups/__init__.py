"""Backups: taken, listed, checked, kept and removed; what of them lies in the bucket says the manifest."""
