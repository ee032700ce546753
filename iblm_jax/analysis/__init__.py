"""What a model does: layer profiles, spectra, attribution, time series."""
