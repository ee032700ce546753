"""Model families behind `init(rng, cfg)` and `apply(params, tokens, cfg)`."""
