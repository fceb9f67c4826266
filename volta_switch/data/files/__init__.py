"""Data files: VOLTA's formats, the compact store, and the commands that check, convert and repack them."""
