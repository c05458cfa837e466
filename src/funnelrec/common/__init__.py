"""What every floor may use: typed errors, configuration, atomic files, seeded randomness."""
