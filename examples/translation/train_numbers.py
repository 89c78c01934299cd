"""Train the small translator of this folder, numbers into English words, and export it as optimum would.

    python examples/translation/train_numbers.py FOLDER
    python examples/translation/train_numbers.py FOLDER --width 512 --layers 2 --steps 600

Needs torch and tokenizers. Writes encoder_model.onnx, decoder_model.onnx, decoder_with_past_model.onnx, tokenizer.json,
numbers.toml, calib.jsonl (200 pairs) and eval.jsonl (400 other ones, which no step of the training has seen). Seeded;
minutes on one core. The second line makes one of the width of T5-small, whose products are what a step takes its time
for.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

import torch
from numbers_net import FirstStep, NextStep, Numbers, Sizes
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

SMALL = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
PAD, END, UNKNOWN = 0, 1, 2
SPECIAL = ["<pad>", "</s>", "<unk>"]
DESCRIPTION = Path(__file__).with_name("numbers.toml")


def words(number: int) -> list[str]:
    """Return a number below a million in English words."""
    if number < 20:
        return [SMALL[number]]
    if number < 100:
        return [TENS[number // 10 - 2], *(words(number % 10) if number % 10 else [])]
    if number < 1000:
        return [SMALL[number // 100], "hundred", *(["and", *words(number % 100)] if number % 100 else [])]
    rest = number % 1000
    joined = [] if not rest else ["and", *words(rest)] if rest < 100 else words(rest)
    return [*words(number // 1000), "thousand", *joined]


def make_tokenizer() -> Tokenizer:
    """Return one for both sides: a token for each digit and each word, and the end behind."""
    names = [*SPECIAL, *"0123456789", *SMALL, *TENS, "hundred", "thousand", "and"]
    made = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=SPECIAL[UNKNOWN]))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\d"), "isolated")]
    )
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    made.add_special_tokens(SPECIAL)
    return made


def draw(rng: random.Random) -> int:
    """Return a number, each length being as likely."""
    digits = rng.randint(1, 6)
    return rng.randrange(10**digits)


def padded(rows: list[list[int]]) -> torch.Tensor:
    """Return rows as one tensor, padded at their end."""
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def train(model: Numbers, tokenizer: Tokenizer, held_out: set[int], steps: int) -> None:
    """Train on numbers that are not held out."""
    rng = random.Random(1)
    # wider ones take smaller steps
    rate = 4e-3 * (Sizes().width / model.sizes.width) ** 0.75
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    for step in range(steps):
        numbers = [n for n in (draw(rng) for _ in range(96)) if n not in held_out]
        source = padded([tokenizer.encode(str(n)).ids for n in numbers])
        wanted = padded([tokenizer.encode(" ".join(words(n))).ids for n in numbers])
        given = torch.cat([torch.full((len(numbers), 1), PAD), wanted[:, :-1]], 1)
        scores = model(source, (source != PAD).long(), given)
        ends = (wanted == PAD).cumsum(1) > 0
        loss = torch.nn.functional.cross_entropy(
            scores.flatten(0, 1), wanted.masked_fill(ends, -1).flatten(), ignore_index=-1
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)


def export(model: Numbers, folder: Path) -> None:
    """Write the three graphs."""
    sizes = model.sizes
    kinds = [f"{side}.{what}" for side in ("decoder", "encoder") for what in ("key", "value")]
    caches = [f"{i}.{kind}" for i in range(sizes.layers) for kind in kinds]
    own = [name for name in caches if ".decoder." in name]
    ids, mask = torch.tensor([[3, 4, 5, END]] * 2), torch.ones(2, 4, dtype=torch.long)
    encoded = model.encoder(ids, mask)
    token = torch.full((2, 1), PAD)
    past = [torch.zeros(2, sizes.heads, 4 if ".encoder." in name else 3, sizes.head) for name in caches]
    batch = {0: "batch_size"}
    source = {0: "batch_size", 1: "encoder_sequence_length"}

    def cache(name: str, length: str) -> dict[int, str]:
        return {**batch, 2: "encoder_sequence_length" if ".encoder." in name else length}

    written = (
        (
            "encoder_model",
            model.encoder,
            (ids, mask),
            ["input_ids", "attention_mask"],
            ["last_hidden_state"],
            {"input_ids": source, "attention_mask": source, "last_hidden_state": source},
        ),
        (
            "decoder_model",
            FirstStep(model.decoder),
            (token, encoded, mask),
            ["input_ids", "encoder_hidden_states", "encoder_attention_mask"],
            ["logits", *(f"present.{name}" for name in caches)],
            {
                "input_ids": {**batch, 1: "decoder_sequence_length"},
                "encoder_hidden_states": source,
                "encoder_attention_mask": source,
                "logits": {**batch, 1: "decoder_sequence_length"},
                **{f"present.{name}": cache(name, "decoder_sequence_length") for name in caches},
            },
        ),
        (
            "decoder_with_past_model",
            NextStep(model.decoder),
            (token, mask, *past),
            ["input_ids", "encoder_attention_mask", *(f"past_key_values.{name}" for name in caches)],
            ["logits", *(f"present.{name}" for name in own)],
            {
                "input_ids": batch,
                "encoder_attention_mask": source,
                "logits": batch,
                **{f"past_key_values.{name}": cache(name, "past_decoder_sequence_length") for name in caches},
                **{f"present.{name}": cache(name, "past_decoder_sequence_length + 1") for name in own},
            },
        ),
    )
    for name, part, example, inputs, outputs, axes in written:
        torch.onnx.export(
            part,
            example,
            str(folder / f"{name}.onnx"),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


def main() -> None:
    """Train, export, and write the data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--width", type=int, default=Sizes().width, help="heads have 64 channels from 256 on")
    parser.add_argument("--layers", type=int, help="of encoder and decoder each; default 2 and 1")
    asked = parser.parse_args()
    narrow = Sizes()
    heads = narrow.heads if asked.width < 256 else asked.width // 64
    layers = (narrow.encoder_layers, narrow.layers) if asked.layers is None else (asked.layers, asked.layers)
    sizes = Sizes(asked.width, heads, asked.width * 2, *layers)
    asked.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rng = random.Random(0)
    drawn = list(dict.fromkeys(draw(rng) for _ in range(1000)))[:600]
    tokenizer = make_tokenizer()
    tokenizer.save(str(asked.folder / "tokenizer.json"), pretty=False)
    for name, numbers in (("calib", drawn[:200]), ("eval", drawn[200:])):
        lines = (json.dumps({"text": str(n), "label": " ".join(words(n))}) for n in numbers)
        (asked.folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if not (asked.folder / DESCRIPTION.name).exists():
        shutil.copy(DESCRIPTION, asked.folder)
    model = Numbers(tokenizer.get_vocab_size(), sizes)
    train(model, tokenizer, set(drawn), asked.steps)
    model.eval()
    with torch.no_grad():
        export(model, asked.folder)


if __name__ == "__main__":
    main()
