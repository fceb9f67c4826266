"""VOLTA's data files and what the models are fed from them: readers, writers, samples, batches."""
