"""VOLTA's data files and what the models are fed from them.

| read | to see |
|---|---|
| ``regions.py`` | what a detector saw in one image: what every feature file comes down to |
| ``files/`` | files of every format: features by image id (``open_features``), image-caption pairs (``open_pairs``) |
| ``batches/`` | samples, what pre-training hides of them, padded tensors, loaders (``batching.make_loader``) |
| ``tokenizer.py``, ``random_streams.py``, ``bad_records.py`` | token ids; randomness by (seed, epoch, sample); counts |
"""
