"""The figures that matter, large, beside those of float; each says where it comes from."""

from collections.abc import Mapping, Sequence
from typing import Any

from qtool.core.records.verification import percent
from qtool.core.text import amount, rounded
from qtool.report.html.blocks import Card
from qtool.report.html.documents import Document, evaluations, of_kind, verifications
from qtool.report.html.figures import db_tone, db_words, ratio_words, real, size_bars
from qtool.report.html.measured import models_of, noise_of, of_model, speed_of
from qtool.report.text import decibels, file_size, number
from qtool.report.timing import ALIKE

Content = Mapping[str, Any]


def cards(documents: Sequence[Document]) -> tuple[Card, ...]:
    """Return the figures that matter, beside those of float, of the first model that the documents speak of."""
    models = models_of(documents)
    documents = of_model(documents, models[0]) if len(models) > 1 else documents
    found = [*_accuracy(documents), *_noise(documents), *_sizes(documents), *_latency(documents)]
    return (*found, *_integers(documents), *_prospect(documents))


def _accuracy(documents: Sequence[Document]) -> list[Card]:
    found: dict[str, Card] = {}
    for one in evaluations(documents):
        for metric in one["metrics"]:
            name = metric["name"]
            if name == "sqnr" or name in found:
                continue
            for model in one["candidates"][:1]:
                exact, score = (real(m["metrics"][name]["value"]) for m in (one["float_model"], model))
                drop = real(model["metrics"][name]["drop"])
                detail = ""
                if drop is not None:
                    detail = f"float {number(exact)}; "
                    detail += "no drop" if drop == 0 else f"{'drop' if drop > 0 else 'gain'} {number(abs(drop))}"
                gates = [gate["passed"] for gate in one["gates"] if gate["metric"] == name]
                tone = "" if not gates else "good" if all(gates) else "bad"
                found[name] = Card(name, number(score), detail, tone, (), f"on {amount(one['samples'], 'sample')}")
    return list(found.values())[:2]


def _noise(documents: Sequence[Document]) -> list[Card]:
    found = noise_of(documents)
    if found is None:
        return []
    if found.db is None:
        return [
            Card("SQNR of the outputs", "not measured", "no finite number to compare", "warn", (), f"on {found.on}")
        ]
    return [
        Card(
            "SQNR of the outputs",
            f"{decibels(found.db)} dB",
            db_words(found.db),
            db_tone(found.db),
            (),
            f"on {found.on}",
        )
    ]


def _sizes(documents: Sequence[Document]) -> list[Card]:
    pairs = [(one.content["float_bytes"], one.content["bytes"]) for one in of_kind(documents, "quantize", "finetune")]
    pairs += [
        (one["float_model"]["size_bytes"], one["candidates"][0]["size_bytes"])
        for one in evaluations(documents)
        if one["candidates"]
    ]
    pairs = [pair for pair in pairs if all(pair)]
    if not pairs:
        return []
    exact, size = pairs[0]
    bars = size_bars({"float": exact, "int8": size}, "B")
    return [Card("Size", file_size(size), ratio_words(exact, size, "smaller", "larger"), "", bars)]


def _latency(documents: Sequence[Document]) -> list[Card]:
    found = speed_of(documents)
    if found is None:
        return []
    bars = size_bars({"float": found.exact, "int8": found.own}, "ms")
    tone = "good" if found.speedup >= ALIKE and not found.noisy else "warn"
    return [Card("Latency", f"{rounded(found.own)} ms", found.words, tone, bars, found.source)]


def _integers(documents: Sequence[Document]) -> list[Card]:
    for _, proof in verifications(documents):
        share, layers = real(proof["integer_share"]), f"{proof['integer_layers']} of {amount(proof['layers'], 'layer')}"
        return [Card("In integers", percent(share), f"of multiply-accumulates; {layers}")]
    for one in of_kind(documents, "inspect"):
        layers = one.content["layers"]
        if one.content["kind"] == "int8" and layers:
            whole = [layer for layer in layers if layer["integer"]]
            known = all(layer["share"] is not None for layer in layers)
            # a sum of shares is rounded, and must not say "more than 99.9 %" where all layers are in integers
            share = None if not known else 1.0 if len(whole) == len(layers) else sum(one["share"] for one in whole)
            words = f"of multiply-accumulates; {len(whole)} of {amount(len(layers), 'layer')}"
            return [Card("In integers", percent(share), words)]
    return []


def _prospect(documents: Sequence[Document]) -> list[Card]:
    """What a float model would gain on the target that it was inspected for first, which is this machine's."""
    for one in of_kind(documents, "inspect"):
        if one.content["kind"] != "float" or not one.content["targets"]:
            continue
        first = one.content["targets"][0]
        if not first["layers"]:
            return [Card("Can be integer", "nothing", f"it has no layer with weights for {first['target']}")]
        layers = f"{first['integer_layers']} of {amount(first['layers'], 'layer')} on {first['target']}"
        share = real(first["macs_share"])
        found = [Card("Can be integer", percent(share), f"of multiply-accumulates; {layers}")]
        whole, parts = real(first["speedup"]), real(first["layers_speedup"])
        if whole is not None:
            source = (
                "a draft of the int8 model, timed here beside float; it is as fast as the real one, and not accurate"
            )
            found.append(Card("Speed of a draft as int8", f"{whole:.2g}x", "of float's", "", (), source))
        elif parts is not None:
            source = "an estimate by a table of the target's kernels; --latency times a draft of the whole model"
            found.append(
                Card("Speed of these layers as int8", f"{parts:.2g}x", "of float's, estimated", "", (), source)
            )
        return found
    return []
