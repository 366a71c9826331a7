"""Everything of timm that is patched, and when."""
