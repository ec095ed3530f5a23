"""Facts about models and their tokens, as dated tables."""
