"""What stands between a query and the files: which it may reach, and whether they are sound."""
