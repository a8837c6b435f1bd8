"""The paper: methods, distillations, the training step, and Keras's face of it."""
