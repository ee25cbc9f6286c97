"""What an autoencoder is measured against: the model's losses without one."""
