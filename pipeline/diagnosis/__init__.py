"""What can be wrong with a host, its network and its radiod, each with the command that mends it."""
