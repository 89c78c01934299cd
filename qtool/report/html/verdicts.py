"""The top of the page: what each document says in a sentence, what to type next, and the figures that matter."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtool.core.records.inspection import FOR_LATENCY, REQUANTISE
from qtool.core.records.verification import percent
from qtool.core.text import amount, rounded
from qtool.report.html.blocks import Card, Headline
from qtool.report.html.documents import CALIBRATION, Document, evaluations, of_kind, verifications
from qtool.report.html.figures import db_tone, db_words, ratio_words, real, size_bars
from qtool.report.text import decibels, file_size, number
from qtool.report.timing import ALIKE

Content = Mapping[str, Any]
_READING = ("--preprocess", "--tokenizer", "--max-length", "--trim", "--state")


def headlines(documents: Sequence[Document]) -> tuple[Headline, ...]:
    """Return a verdict for each document that has one, in the order of the work."""
    found = [_VERDICTS[kind](one.content) for kind in _VERDICTS for one in of_kind(documents, kind)]
    # what the page shows already is no next step
    done = any(of_kind(documents, "evaluation"))
    return tuple(replace(one, next="") if done and one.next.startswith("qtool eval ") else one for one in found)


def warnings(documents: Sequence[Document]) -> tuple[str, ...]:
    """Return what is odd about the data, each sentence once."""
    rows = [text for one in documents for text in one.content.get("warnings", ())]
    rows += [text for one in of_kind(documents, "tune") for text in one.content["evaluation"].get("warnings", ())]
    return tuple(dict.fromkeys(map(str, rows)))


def cards(documents: Sequence[Document]) -> tuple[Card, ...]:
    """Return the figures that matter, beside those of float."""
    found = [*_accuracy(documents), *_noise(documents), *_sizes(documents), *_latency(documents)]
    return (*found, *_integers(documents))


def _quantized(content: Content) -> Headline:
    verdict, timing = content["verdict"], content["timing"]
    sqnr = real(content["verification"]["output_sqnr_db"])
    model, data = _asked(content)
    how = _reading(content)
    if verdict is None:
        words, tone = "Written; its accuracy is not measured, since there was no data", "warn"
    elif verdict["met"] is None:
        words, tone = "Written; no output has an SQNR to judge it by", "warn"
    elif verdict["met"]:
        words, tone = (
            f"Accurate: outputs at {decibels(sqnr)} dB SQNR, at least {verdict['min_sqnr']:.4g} dB wanted",
            "good",
        )
    else:
        words = f"Not accurate: outputs at {decibels(sqnr)} dB SQNR, at least {verdict['min_sqnr']:.4g} dB wanted"
        tone = "bad"
    speedup = real(timing.get("speedup"))
    if speedup is not None:
        words += f"; {speedup:.2f}x as fast as float" if speedup >= 1 else f"; SLOWER than float ({speedup:.2f}x)"
        tone = "warn" if speedup < 1 and tone == "good" else tone
    if verdict is not None and verdict["met"] is False:
        step = f"qtool tune {model} --data {data}{how} --min-sqnr {verdict['min_sqnr']:.4g}"
    elif speedup is not None and speedup < 1:
        step = f"qtool quantize {model} --data {data}{how} --optimize-for latency"
    else:
        step = f"qtool eval {model} {_word(content['output'])} --data LABELLED{how} --max-drop 1% --latency"
    return Headline(str(content["output"]), words, tone, step)


def _tuned(content: Content) -> Headline:
    target = [f"{content['metric']} drop at most {content['max_drop']}"] if content["max_drop"] is not None else []
    target += [f"SQNR at least {content['min_sqnr']:.4g} dB"] if content["min_sqnr"] is not None else []
    model, data = content["evaluation"]["float_model"]["path"], f"DATA{_reading(content)}"
    kept = f"kept: {content['best']['what']}"
    if content["met"]:
        step = f"qtool eval {_word(model)} {_word(content['output'])} --data LABELLED{_reading(content)} --latency"
        return Headline(str(content["output"]), f"Target met ({', '.join(target)}); {kept}", "good", step)
    missed = "; ".join(content["missed"]) or "not all data could report"
    words = f"Target missed ({', '.join(target)}): {missed}; {kept}"
    step = f"qtool finetune {_word(model)} --plan PLAN --data {data}"
    needed = real(content["float_needed"])
    if needed is not None:
        step = f"qtool tune {_word(model)} --data {data} --max-float-macs {100 * needed + 0.05:.1f}%"
    return Headline(str(content["output"]), words, "bad", step)


def _finetuned(content: Content) -> Headline:
    before, after = (decibels(real(content[name])) for name in ("before_db", "after_db"))
    if content["kept"]:
        return Headline(str(content["output"]), f"Better: outputs {before} to {after} dB SQNR on new samples", "good")
    words = f"Nothing gained: it is the model that training began with, at {before} dB SQNR"
    return Headline(str(content["output"]), words, "warn", "qtool finetune MODEL --data DATA --learning-rate 0.3")


def _evaluated(content: Content) -> Headline:
    models = ", ".join(model["name"] for model in content["candidates"])
    failed = [gate["message"] for gate in content["gates"] if not gate["passed"]]
    if failed:
        step = f"qtool tune {_word(content['float_model']['path'])} --data {_word(content['data'])}{_reading(content)}"
        return Headline(models, f"Gate failed: {'; '.join(failed)}", "bad", step)
    if content["gates"]:
        return Headline(models, f"Gates passed: {'; '.join(gate['message'] for gate in content['gates'])}", "good")
    return Headline(models, f"Compared with float on {amount(content['samples'], 'sample')}", "")


def _ranked(content: Content) -> Headline:
    layers = content["layers"]
    if not layers:
        return Headline(str(content["model"]), "No layer was ranked", "warn")
    worst = layers[0]["name"]
    calibration = _given(content, "--calibration") or "FILE"
    step = f"qtool quantize {_word(content['model'])} --calibration {_word(calibration)} --exclude {_word(worst)}"
    words = f"Most sensitive of {amount(len(layers), 'layer')}: {worst}"
    return Headline(str(content["model"]), words, "", step)


def _inspected(content: Content) -> Headline:
    dear = [one for one in content["findings"] if (real(one["ms_share"]) or 0.0) >= 0.1]
    speed = content["speed"] and real(content["speed"]["speedup"])
    tone = "" if content["kind"] == "float" else "warn" if dear or (speed is not None and speed < 1) else "good"
    advice = str(content["next"])
    # what a remedy says in words is a command where the float model is known
    source = content["model"] if content["kind"] == "float" else content["float_model"] or "FLOAT"
    quantising = content["kind"] == "float" or REQUANTISE in advice
    fast = " --optimize-for latency" if FOR_LATENCY in advice else ""
    data = f"{_word(_given(content, '--data') or 'DATA')}{_reading(content)}"
    step = f"qtool quantize {_word(source)} --data {data}{fast}" if quantising else ""
    return Headline(str(content["model"]), _sentence(content["verdict"]), tone, step, _sentence(advice))


_VERDICTS = {
    "quantize": _quantized,
    "tune": _tuned,
    "finetune": _finetuned,
    "evaluation": _evaluated,
    "inspect": _inspected,
    "sensitivity": _ranked,
}


def _asked(content: Content) -> tuple[str, str]:
    """What `quantize` was given, as a shell takes it."""
    asked = content.get("asked") or {}
    return _word(asked.get("model") or "MODEL"), _word(asked.get("data") or "DATA")


def _given(content: Content, option: str) -> str | None:
    """What the command was given for an option, as far as the document says."""
    call = content.get("call") or {"options": {}}
    words = call["options"].get(option)
    return str(words[0]) if words else None


def _reading(content: Content) -> str:
    """The options that say how data is read, as they were given, or as the calibration file has them."""
    asked, call = content.get("asked") or {}, content.get("call") or {}
    found = [(f"--{name.replace('_', '-')}", text) for name, text in asked.get("reading", ())]
    options = call.get("options", {})
    found = found or [(option, text) for option in _READING for text in options.get(option, ())]
    return "".join(f" {option} {_word(text)}" for option, text in found)


def _sentence(text: str) -> str:
    return text if text.startswith("onnxruntime") else text[:1].upper() + text[1:]


def _word(text: str) -> str:
    return shlex.quote(str(text))


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
                detail = f"float {number(exact)}" if drop is not None else ""
                if drop is not None:
                    detail += "; no drop" if drop == 0 else f"; {'drop' if drop > 0 else 'gain'} {number(abs(drop))}"
                gates = [gate["passed"] for gate in one["gates"] if gate["metric"] == name]
                tone = "" if not gates else "good" if all(gates) else "bad"
                found[name] = Card(name, number(score), f"{detail} on {amount(one['samples'], 'sample')}", tone)
    return list(found.values())[:2]


def _noise(documents: Sequence[Document]) -> list[Card]:
    rows = [real(proof["output_sqnr_db"]) for _, proof in verifications(documents) if proof["examples"]]
    rows += [real(model["sqnr_db"]) for one in evaluations(documents) for model in one["candidates"][:1]]
    if not rows:
        return []
    value = rows[0]
    text = "not measured" if value is None else f"{decibels(value)} dB"
    return [Card("SQNR of the outputs", text, db_words(value), db_tone(value))]


def _sizes(documents: Sequence[Document]) -> list[Card]:
    pairs = [(one.content["float_bytes"], one.content["bytes"]) for one in of_kind(documents, "quantize", "finetune")]
    pairs += [(one["float_model"]["size_bytes"], one["candidates"][0]["size_bytes"]) for one in evaluations(documents)]
    pairs = [pair for pair in pairs if all(pair)]
    if not pairs:
        return []
    exact, size = pairs[0]
    bars = size_bars({"float": exact, "int8": size}, "B")
    return [Card("Size", file_size(size), ratio_words(exact, size, "smaller", "larger"), "", bars)]


def _latency(documents: Sequence[Document]) -> list[Card]:
    rows: list[tuple[float, float, float, bool]] = []
    for one in evaluations(documents):
        exact, model = one["float_model"]["latency"], one["candidates"][0]["latency"]
        if exact and model:
            rows.append((exact["median_ms"], model["median_ms"], model["speedup"], model["noisy"]))
    for made in of_kind(documents, "quantize"):
        timing = made.content["timing"]
        if timing["speedup"] is not None:
            rows.append((timing["float_ms"], timing["int8_ms"], timing["speedup"], timing.get("noisy", False)))
    for made in of_kind(documents, "inspect"):
        speed = made.content["speed"]
        if speed and speed["speedup"] is not None:
            rows.append((speed["float_ms"][0], speed["ms"][0], speed["speedup"], speed["noisy"]))
    if not rows:
        return []
    exact, ms, speedup, noisy = rows[0]
    bars = size_bars({"float": exact, "int8": ms}, "ms")
    if noisy:
        return [Card("Latency", f"{rounded(ms)} ms", f"too noisy to compare (about {speedup:.2g}x)", "warn", bars)]
    words = f"{speedup:.2f}x as fast as float" if speedup >= 1 else f"SLOWER than float: {speedup:.2f}x"
    return [Card("Latency", f"{rounded(ms)} ms", words, "good" if speedup >= ALIKE else "warn", bars)]


def _integers(documents: Sequence[Document]) -> list[Card]:
    for _, proof in verifications(documents):
        share, layers = real(proof["integer_share"]), f"{proof['integer_layers']} of {amount(proof['layers'], 'layer')}"
        return [Card("In integers", percent(share), f"of multiply-accumulates; {layers}", "")]
    for one in of_kind(documents, "inspect"):
        layers = one.content["layers"]
        if one.content["kind"] == "int8" and layers:
            whole = [layer for layer in layers if layer["integer"]]
            known = all(layer["share"] is not None for layer in layers)
            # a sum of shares is rounded, and must not say "more than 99.9 %" where all layers are in integers
            share = None if not known else 1.0 if len(whole) == len(layers) else sum(one["share"] for one in whole)
            words = f"of multiply-accumulates; {len(whole)} of {amount(len(layers), 'layer')}"
            return [Card("In integers", percent(share), words, "")]
    return []


def title_of(documents: Sequence[Document]) -> str:
    """Return what the page is about: the name of the model, or of the calibration file, which knows a digest alone."""
    named = [one for one in documents if one.kind != CALIBRATION]
    names = [str(one.content[key]) for key in ("output", "model") for one in named if one.content.get(key)]
    names += [one["candidates"][0]["name"] for one in evaluations(documents)]
    names += [str(one.content["file"]) for one in of_kind(documents, CALIBRATION)]
    return Path(names[0]).name if names else "model"
