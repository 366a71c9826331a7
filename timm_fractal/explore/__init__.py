"""A web page to explore the data sets: options, classes, sweeps, augmented samples."""
