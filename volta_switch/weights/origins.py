"""Whose weights a file holds, told by the names in it.

Other projects' files have BERT's names for their text side. Taken for a BERT, they would give a model its text side
and lose the rest in silence: they are refused by what they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from volta_switch.errors import UserError
from volta_switch.weights.names import some

_RUN = re.compile(r"\.attention_self\.")  # VOLTA's and this project's runs
_BERT = re.compile(r"bert\.encoder\.layer\.\d+\.attention\.self\.query\.weight")
# Project -> a part of a name, after ``names.normalised``, that no other's files have. The first that is found counts.
_OTHERS = {
    "VL-BERT (its own layout)": r"(^|\.)vlbert\.",
    "12-in-1": r"\.task_embeddings\.|^vil_prediction_gqa\.|^vil_tri_prediction\.",
    "ViLBERT or 12-in-1": r"\.encoder\.(c_layer|v_layer)\.\d+\.|^vil_prediction\.",
    "LXMERT (Hugging Face's layout)": r"^lxmert\.",
    "LXMERT (its own layout)": r"(^|\.)encoder\.(x_layers|r_layers|visn_fc)\.",
    "VisualBERT (Hugging Face's layout)": r"(^|\.)visual_bert\.|(^|\.)visual_(token_type|position)_embeddings\.",
    "VisualBERT (its own layout)": r"(^|\.)(token_type|position)_embeddings_visual\.",
    "UNITER or VILLA": r"^uniter\.|(^|\.)img_embeddings\.",
    "Oscar or VinVL": r"(^|\.)img_embedding\.",
    "ViLT": r"^vilt\.|^transformer\.patch_embed\.",
    "ALBEF or BLIP": r"^visual_encoder\.",
    "CLIP": r"^visual_projection\.|^vision_model\.|^visual\.(transformer|conv1|layer1)\.",
    "RoBERTa": r"^roberta\.",
    "DistilBERT": r"^distilbert\.|^transformer\.layer\.\d+\.attention\.q_lin\.",
    "ALBERT": r"^albert\.|\.embedding_hidden_mapping_in\.",
    "ELECTRA": r"^electra\.|^discriminator_predictions\.|^generator_predictions\.",
}


def is_of_a_run(names: Iterable[str]) -> bool:
    """Whether these are names of a run's weights, this project's or VOLTA's."""
    return any(_RUN.search(name) for name in names)


def refuse_others(names: Iterable[str], source: str, wanted: str) -> None:
    """Raises UserError that says whose weights these are, where they are another project's.

    Args:
        names: normalised (``names.normalised``).
        source: where they came from.
        wanted: what to give instead.
    """
    names = list(names)
    if is_of_a_run(names):
        return
    for project, sign in _OTHERS.items():
        if found := next((name for name in names if re.search(sign, name)), ""):
            raise UserError(
                f"{source}: these are weights of {project}, by names such as {some([found])}; importing them is not "
                f"supported yet: {wanted}"
            )


def refuse_bert(names: Iterable[str], source: str, wanted: str) -> None:
    """As ``refuse_others`` for a BERT's, where a run's are wanted."""
    if found := next((name for name in names if _BERT.fullmatch(name)), ""):
        raise UserError(
            f"{source}: these are a BERT's weights, by names such as {found}, from which training may start "
            f"(--from_pretrained of train_concap.py and train_task.py): {wanted}"
        )
