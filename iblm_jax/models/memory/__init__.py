"""Memory models: chunks of text as vectors that a decoder reads."""
