"""What an embedding holds of its input: an encode function in, bits out."""
