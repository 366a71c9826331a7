"""What all rooms need: files, devices, compilation, lazy doors."""
