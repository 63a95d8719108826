"""What people load beside a model: LoRAs and the like, embeddings, other VAEs."""
