"""The parts of the training loop: batches, losses, optimisers, precision, how the process is learned."""
