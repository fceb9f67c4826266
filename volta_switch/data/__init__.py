"""VOLTA's data files and what the models are fed from them.

| read | to see |
|---|---|
| ``regions.py`` | what a detector saw in one image: what every feature file comes down to |
| ``feature_files.py``, ``formats/`` | files of any format (``open_features``, ``open_pairs``); one module each |
| ``files/`` | what formats have in common: stores, LMDB's pages, records, pickles without code, fetched shards |
| ``batches/`` | samples, what pre-training masks of them, padded tensors, loaders (``loader.make_loader``) |
| ``tokenizer.py``, ``image_ids.py`` | token ids; images by any of their names |
| ``geometry.py``, ``fingerprints.py`` | boxes that cannot be their images'; which data a run has read |
"""
