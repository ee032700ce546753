"""Documents of text: files, tokenizers, packing into rows."""
