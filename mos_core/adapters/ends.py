"""What the names of tensors in LoRA files end with: one spelling for what trainers write in many.

The spelling is the one that ComfyUI reads wherever it reads the kind at all.
"""

import re

DOWN, UP, MID = ".lora_down.weight", ".lora_up.weight", ".lora_mid.weight"
ALPHA, DORA, MAGNITUDE = ".alpha", ".dora_scale", ".lora_magnitude_vector"
RESHAPE, DIFF, BIAS, SET = ".reshape_weight", ".diff", ".diff_b", ".set_weight"
NORM, NORM_BIAS = ".w_norm", ".b_norm"
HADA = tuple(f".hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b"))
HADA_TUCKER = (".hada_t1", ".hada_t2")
LOKR = tuple(f".lokr_{p}" for p in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))
GLORA = (".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight")
OFT, RESCALE, OFT_V2 = ".oft_blocks", ".rescale", ".oft_R.weight"

_LORA = (DOWN, UP, MID, ALPHA, DORA, MAGNITUDE, RESHAPE, DIFF, BIAS, SET, NORM, NORM_BIAS)
OWN = (*_LORA, *HADA, *HADA_TUCKER, *LOKR, *GLORA, OFT, RESCALE, OFT_V2)
OTHERS = {  # other spellings; where one ends with another, the longer one stands first
    ".lora_A.weight": DOWN,
    ".lora_B.weight": UP,
    ".lora_A": DOWN,
    ".lora_B": UP,
    ".lora_B.bias": BIAS,
    ".lora.down.weight": DOWN,
    ".lora.up.weight": UP,
    ".lora_linear_layer.down.weight": DOWN,
    ".lora_linear_layer.up.weight": UP,
    "_lora.down.weight": DOWN,
    "_lora.up.weight": UP,
    ".lora_magnitude_vector.weight": MAGNITUDE,
    ".magnitude": MAGNITUDE,
    ".oft_R": OFT_V2,
}
# PEFT puts the adapter's name in between: to_q.lora_A.default.weight
_ADAPTER = re.compile(
    r"(?P<part>\.(?:lora_[AB]|lora_magnitude_vector|oft_R))\.(?!weight$|bias$)\w+(?P<end>\.weight|\.bias|)$"
)
_ENDS = {**{end: end for end in OWN}, **OTHERS}
_LONGEST_FIRST = sorted(_ENDS, key=len, reverse=True)


def split_name(name: str) -> tuple[str, str] | None:
    """'x.to_q.lora_A.default.weight' -> ('x.to_q', '.lora_down.weight'); None: no LoRA tensor."""
    plain = _ADAPTER.sub(r"\g<part>\g<end>", name)
    for end in _LONGEST_FIRST:
        if plain.endswith(end) and len(plain) > len(end):
            return plain.removesuffix(end), _ENDS[end]
    return None
