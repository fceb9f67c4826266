"""Models: embeddings, sublayers, switchers, encoders, heads."""
