"""A page in a browser on which the data sets can be seen: options, classes, sweeps, augmented samples."""
