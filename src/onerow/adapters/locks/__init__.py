"""Lock stores: small registers with compare-and-swap."""
