"""What experiments share: flags, schedule of runs, rows and results."""
