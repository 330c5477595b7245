"""The four deployments, one folder each; none imports another."""
