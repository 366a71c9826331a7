"""What all subpackages need: files, devices, compilation, random streams, messages, lazy imports."""
