"""The region detector: a picture in, what VOLTA's models call an image out (``data.regions.Regions``).

It is the Faster R-CNN of bottom-up attention (Anderson et al. 2018, arXiv 1707.07998): ResNet-101 C4, trained on Visual
Genome with 1,600 classes of objects and 400 attributes.

| module | subject |
|---|---|
| ``settings`` | what a detector is: widths, anchors, sizes of the input |
| ``pictures`` | files of pictures -> upright RGB -> the network's input |
| ``boxes`` | anchors, deltas, overlap, suppression of overlapping boxes |
| ``pooling`` | RoIPool: the maximum over the cells of a box |
| ``network`` | backbone, proposals, head |
| ``selection`` | which proposals become regions: ``caffe`` and ``maxnms`` |
| ``checkpoints``, ``foreign`` | a detector's folder, and the files of two other programs |
| ``detect`` | ``Detector``: pictures -> ``Regions`` |
| ``losses`` | training a small one, as the synthetic world does |
"""
