"""One pass over the activations that trains one autoencoder, or many."""
