"""What every part stands on: config, checkpoints, files, devices, signals, and the exception for a user's mistake."""
