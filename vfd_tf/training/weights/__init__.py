"""What a step does to weights: where gradients are taken, summed and scaled; averages."""
