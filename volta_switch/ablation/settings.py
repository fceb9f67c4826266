"""What can be taken away, and what is measured of it, in words; alone, as flags and tables ask without PyTorch."""

from __future__ import annotations

LANGUAGE, VISION = "lang4vis", "vis4lang"  # which modality is taken away from the prediction of the other one
NONE, ALL = "none", "all"
PART = {VISION: "object", LANGUAGE: "phrase"}  # direction -> what of the modality belongs to the entity
MASKINGS = {direction: (NONE, part, ALL) for direction, part in PART.items()}

WORDS = "mlm"  # cross-entropy of masked words
CLASSES, DIVERGENCE = "mrc_xe", "mrc_kl"  # of a masked region's class: cross-entropy; divergence from the detector's

TITLES = {
    WORDS: "masked words, cross-entropy",
    DIVERGENCE: "masked region, divergence from the detector (KL)",
    CLASSES: "masked region, cross-entropy of its class",
}
MASKED = {
    (VISION, NONE): "no region",
    (VISION, PART[VISION]): "the object's regions",
    (VISION, ALL): "all regions",
    (LANGUAGE, NONE): "no word",
    (LANGUAGE, PART[LANGUAGE]): "the phrase's words",
    (LANGUAGE, ALL): "all words",
}
