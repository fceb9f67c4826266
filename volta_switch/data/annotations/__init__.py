"""What people said of images: one reader for each data set, plain entries out."""
