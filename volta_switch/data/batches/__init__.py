"""From files and annotations to the tensors of a batch."""
