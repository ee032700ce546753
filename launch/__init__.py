"""Programs that start training on other machines: iblm_jax.launch."""
