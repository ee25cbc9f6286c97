"""Places in the plane for documents and latents, and what pages need ready."""
