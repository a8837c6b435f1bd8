"""Images and labels: data sets, files, augmentation, batches."""
