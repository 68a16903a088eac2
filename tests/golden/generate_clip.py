"""Records what is about CLIP: networks with unusual options, preprocessing, and a tokenizer.

    python generate_clip.py [folder]        (torch, transformers, tokenizers, Pillow, safetensors; seconds on a CPU)

The cases `option_clip_*` are drawn as those of `generate.py` are. `clip_preprocess` holds pictures through the Pillow version
of CLIPImageProcessor. `tokenizer_clip` is a small vocabulary learned from the text below, with texts and their ids.
"""

import json
import os
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, trainers, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from generate import OUT, Case, cast, in_dtype, redraw, tensor

TINY = dict(hidden_size=32, intermediate_size=56, num_attention_heads=2, num_hidden_layers=2, projection_dim=24)


def attention(name, value):
    """The scores of CLIP's attention are spread as `redraw` spreads those of a UNet."""
    return value * 1.5 if ".q_proj.weight" in name or ".k_proj.weight" in name else value


def clip_case(name, kind, note, model, calls, seed, rename=lambda n: n):
    redraw(model, seed)
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(attention(n, p).half().float())
    case = Case(name, kind, note)
    model_config = model.config
    os.makedirs(os.path.join(OUT, name), exist_ok=True)
    case.components[""] = {
        "class": type(model).__name__,
        "config": "config.json",
        "weights": {"float16": "model.safetensors"},
    }
    config = model_config.to_diff_dict() | {"architectures": [type(model).__name__]}
    case.files["config.json"] = json.dumps(config, indent=1, sort_keys=True)
    weights = {rename(k): v.half().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, os.path.join(OUT, name, "model.safetensors"))

    def run(dtype, i):
        m = in_dtype(model, dtype)
        out = m(**{k: cast(v, dtype) for k, v in i.items()}, output_hidden_states=True)
        named = {"last_hidden_state": out.last_hidden_state}
        if model.config.num_hidden_layers > 1:
            named["hidden_states.-2"] = out.hidden_states[-2]
        for key in ("pooler_output", "text_embeds", "image_embeds"):
            if getattr(out, key, None) is not None:
                named[key] = getattr(out, key)
        return named

    for call, inputs in calls.items():
        case.call(call, "forward", {}, inputs, run)
    case.write()


def networks():
    g = torch.Generator().manual_seed(51)
    ids = lambda *rows: {"input_ids": torch.tensor(rows)}
    text = dict(vocab_size=61, max_position_embeddings=11, bos_token_id=59, eos_token_id=60, pad_token_id=0, **TINY)
    padded = ids([59, 5, 9, 60, 0, 0, 0], [59, 4, 31, 7, 8, 60, 0], [59, 3, 2, 1, 4, 5, 6])
    masked = {"input_ids": padded["input_ids"].clone()} | {"attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 1, 1, 0], [1] * 7])}
    model = CLIPTextModelWithProjection(CLIPTextConfig(**text, hidden_act="silu", layer_norm_eps=1e-3))
    clip_case(
        "option_clip_text",
        "clip_text",
        "SiLU, padding other than the end, a text without an end (pooled at its first token), a mask with a hole",
        model,
        {"padded": padded, "masked": masked, "one": ids([60])},
        52,
    )
    model = CLIPTextModel(CLIPTextConfig(**text | dict(num_hidden_layers=1, eos_token_id=2), hidden_act="relu"))
    clip_case(
        "option_clip_text_bare",
        "clip_text",
        "one layer; pooled at the largest id, the first of two; names as transformers 5 writes them",
        model,
        {"largest": ids([3, 40, 40, 2, 1])},
        53,
        lambda n: n.removeprefix("text_model."),
    )
    vision = CLIPVisionConfig(**TINY, image_size=23, patch_size=5, num_channels=3, hidden_act="gelu")
    clip_case(
        "option_clip_vision",
        "clip_vision",
        "pictures that are no whole number of patches; GELU; names without a prefix",
        CLIPVisionModelWithProjection(vision),
        {"b3": {"pixel_values": tensor(g, 3, 3, 23, 23)}},
        54,
        lambda n: n.removeprefix("vision_model."),
    )


def preprocess():
    rng = np.random.default_rng(55)
    settings = {
        "clip": dict(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),
        "numbers": dict(size={"shortest_edge": 28}, crop_size={"height": 20, "width": 26}, resample=1),
        "squeezed": dict(size={"height": 24, "width": 24}, do_center_crop=False),
        "plain": dict(do_resize=False, do_center_crop=False, do_normalize=False),
    }
    pictures = {"wide": (31, 57), "tall": (66, 29), "small": (13, 11)}
    inputs, expected, calls = {}, {}, []
    for name, (h, w) in pictures.items():
        inputs[name] = torch.from_numpy(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
    for setting, fields in settings.items():
        processor = CLIPImageProcessorPil(**fields)
        for name in pictures:
            image = Image.fromarray(inputs[name].numpy())
            key = f"{setting}.{name}"
            expected[key] = processor(images=image, return_tensors="pt")["pixel_values"].contiguous()
            # The numbers are single precision; the arithmetic on them may be rounded in another order.
            output = {"key": key, "shape": list(expected[key].shape), "atol_f32": 2e-6}
            calls.append(
                {
                    "name": key,
                    "op": "preprocess",
                    "args": {"settings": fields},
                    "inputs": {"image": {"key": name, "shape": list(inputs[name].shape), "dtype": "uint8"}},
                    "outputs": {"pixel_values": output},
                }
            )
    folder = os.path.join(OUT, "clip_preprocess")
    os.makedirs(folder, exist_ok=True)
    case = {"format": 1, "name": "clip_preprocess", "kind": "clip_vision", "components": {}, "calls": calls}
    case["note"] = "Pillow's resize, crop and normalisation as transformers' CLIPImageProcessor does them"
    with open(os.path.join(folder, "case.json"), "w") as f:
        f.write(json.dumps(case, indent=1) + "\n")
    save_file(inputs, os.path.join(folder, "inputs.safetensors"))
    save_file(expected, os.path.join(folder, "expected.safetensors"))


LEARN = """
a photo of a cat sitting on a wooden table. a photograph of an astronaut riding a horse on the moon, highly detailed.
the dancer turns slowly, her hands above her head; it's night, they're dancing, we've seen it, don't stop, i'll go.
a woman walking down the street in the rain, best quality, masterpiece, 4k, 8k, ultra high resolution, photorealistic.
controllable human video generation with pose, depth and normal maps. portrait of a man wearing a red hat, side light.
"""

TEXTS = [
    "a photo of a cat",
    "A Photograph of an ASTRONAUT riding a horse!",
    "Best quality, a woman dancing in the street, 4k!",
    "don't stop, they'RE here; I'll we've 'tis rock'n'roll ''s !'s",
    "",
    "   \t\n  ",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m \u212bngstr\u00f6m",
    "\u03a3\u03b9\u03b3\u03bc\u03b1\u03a3 \u0130stanbul \u1e9e\u00df",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \ud55c\uad6d\uc5b4 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "emoji \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u24b6\u24d0 \u2160\u2171 \u00bd \u00b2 \u0663",
    "nbsp\u00a0thin\u2009ideographic\u3000line\u2028zero\u200bwidth",
    "<|startoftext|>cat<|endoftext|> dog <|ENDOFTEXT|> <|x|>",
    "1234567890 3.14 1,000 x2y3 v1.5",
    "snake_case kebab-case path/to/file (nested [brackets] {here}) \"quotes\" \u201ccurly\u201d \u2026 \u2014",
    "word " * 120,
    "supercalifragilisticexpialidociousantidisestablishmentarianism",
    "\ufffd \u0000\u0001 \u007f\u00ad",
]


def tokenizer():
    folder = os.path.join(OUT, "tokenizer_clip")
    os.makedirs(folder, exist_ok=True)
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = CLIPTokenizer()._tokenizer.pre_tokenizer
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=bytes_, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator([LEARN], trainer)
    merges = [tuple(m) for m in json.loads(learner.to_str())["model"]["merges"]]
    # In the order of the published vocabulary: bytes, bytes at the end of a word, merges, the ends of a text.
    tokens = bytes_ + [b + "</w>" for b in bytes_] + ["".join(m) for m in merges]
    tokens = list(dict.fromkeys(tokens)) + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {t: i for i, t in enumerate(tokens)}
    with open(os.path.join(folder, "vocab.json"), "w", encoding="utf-8") as f:
        json.dump(vocab, f, ensure_ascii=False)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    field = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77, pad_token="!")
    # The padding of Stable Diffusion 2 and of the second tokenizer of XL.
    special = {"bos_token": {"content": "<|startoftext|>"}, "eos_token": "<|endoftext|>", "pad_token": "!"}
    with open(os.path.join(folder, "special_tokens_map.json"), "w") as f:
        json.dump(special, f, indent=1)
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump({"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}, f, indent=1)
    os.makedirs(os.path.join(folder, "whole"), exist_ok=True)
    field._tokenizer.save(os.path.join(folder, "whole", "tokenizer.json"), pretty=False)
    encode = lambda text: field(text, padding="max_length", truncation=True)["input_ids"]
    alone = lambda text: field(text, add_special_tokens=False)["input_ids"]
    rows = [{"text": t, "ids": alone(t), "padded": encode(t)} for t in TEXTS]
    with open(os.path.join(folder, "texts.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)
    networks()
    preprocess()
    tokenizer()
    print("written to", os.path.relpath(OUT), file=sys.stderr)
