"""What a network is: architectures, layers that can be read, precision, and what fits."""
