"""The top of the page: what each document says in a sentence, and what to type next."""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtool.core.records.codec import decoded
from qtool.core.records.inspection import BESIDE_FLOAT, FOR_LATENCY, OUTPUT_SQNR, REQUANTISE, TIME_IT
from qtool.core.records.results import Asked
from qtool.core.text import amount, sentence
from qtool.report.commands import eval_command, inspect_command
from qtool.report.html.accuracy import nan_words
from qtool.report.html.blocks import Headline
from qtool.report.html.documents import CALIBRATION, Document, evaluations, of_kind, sensitivity_of
from qtool.report.html.figures import real
from qtool.report.html.measured import MeasuredSpeed, noise_of, samples_of, speed_of
from qtool.report.inspect_float import quantize_command
from qtool.report.sensitivity import NO_GAIN, exclude_options, worth_leaving
from qtool.report.text import decibels, number
from qtool.report.words import again, hardly_quantised

Content = Mapping[str, Any]
_READING = ("--preprocess", "--tokenizer", "--max-length", "--trim", "--state")
_WRONG = ("does-not-run", "wrong-result", "bad-scale", "accuracy")
"""Findings that make a model no good."""
_LACKING = {
    "DATA": "your samples",
    "MODEL": "the float model",
    "FLOAT": "the float model",
    "FILE": "a calibration file",
}
"""What stands in a command for what no document says, and what it is."""


def headlines(documents: Sequence[Document]) -> tuple[Headline, ...]:
    """Return a verdict for each document that has one, in the order of the work; one of them says the speed."""
    found = [_VERDICTS[kind](one, documents) for kind in _VERDICTS for one in of_kind(documents, kind)]
    # what the page shows already is no next step, nor is what another verdict says
    shows = {"evaluation": "qtool eval", "inspect": "qtool inspect"}
    seen = {command for kind, command in shows.items() if any(of_kind(documents, kind))}
    shown = []
    for one in found:
        command = " ".join(one.next.split()[:2])
        shown.append(replace(one, next="") if command in seen else _completed(one))
        seen.add(command)
    return tuple(shown)


def _completed(headline: Headline) -> Headline:
    """The same; a command that lacks what only its reader has is no command to copy, but advice that says so."""
    lacks = [f"{what} as {name}" for name, what in _LACKING.items() if name in headline.next.split()]
    if not lacks:
        return headline
    advice = f"Next, with {' and '.join(lacks)}: {headline.next}"
    return replace(headline, next="", advice=". ".join(filter(None, [headline.advice, advice])))


def warnings(documents: Sequence[Document]) -> tuple[str, ...]:
    """Return what is odd about the data, each sentence once."""
    rows = [text for one in documents for text in one.content.get("warnings", ())]
    rows += [text for one in of_kind(documents, "tune") for text in one.content["evaluation"].get("warnings", ())]
    return tuple(dict.fromkeys(map(str, rows)))


def _quantized(document: Document, documents: Sequence[Document]) -> Headline:
    content = document.content
    verdict, speed = content["verdict"], _own_speed(document, documents)
    model, data, how = *_asked(content), _reading(content)
    wanted = "" if verdict is None else f"at least {verdict['min_sqnr']:.4g} dB wanted"
    figure = f"outputs {_judged(content['verification'])}, {wanted}"
    if verdict is None:
        words, tone = "Written; its accuracy is not measured, since there was no data", "warn"
    elif verdict["met"] is None:
        words, tone = "Written; no output has an SQNR to judge it by", "warn"
    else:
        words, tone = (f"Accurate: {figure}", "good") if verdict["met"] else (f"Not accurate: {figure}", "bad")
        hardly = _hardly(content) if verdict["met"] else ()
        if hardly:
            words, tone = f"Hardly quantised ({'; '.join(hardly)}), though accurate: {figure}", "warn"
    words, tone = _with_speed(words, tone, speed)
    if verdict is not None and verdict["met"] is False:
        needed = real(verdict["float_needed"])
        step = f"qtool tune {model} --data {data}{how} --min-sqnr {verdict['min_sqnr']:.4g}"
        step = step if needed is None else _again(content, step, "--max-float-macs", _at_least(needed))
    elif speed is not None and speed.speedup < 1 and not speed.noisy:
        step = _again(content, f"qtool quantize {model} --data {data}{how}", "--optimize-for", "latency")
    else:
        known = content.get("evaluation") is not None
        decoders = [f"--decode {name}" for name in content.get("decoders", ())[:1] if not known]
        step = eval_command(_all_asked(content), str(content["output"]), *decoders)
    return Headline(str(content["output"]), words, tone, step)


def _hardly(content: Content) -> tuple[str, ...]:
    """How little is in 8 bits, and why; nothing where it is enough."""
    proof, plan = content["verification"], content["plan"]
    stored = {node for kind in ("stored", "blocks") for row in plan.get(kind) or () for node, _ in row["readers"]}
    share = real(proof["integer_share"])
    return hardly_quantised(proof["layers"], proof["integer_layers"], share, proof["float_layers"], stored)


def _judged(proof: Content) -> str:
    """The SQNR of the outputs, that in front of a saturated end where it is less, and what it was measured on."""
    db = real(proof["output_sqnr_db"])
    before = [found for found in map(real, (proof.get("sqnr_db_before") or {}).values()) if found is not None]
    if db is None and not before:
        return f"hold NaN or Inf where float has numbers, on {samples_of(proof)}"
    words = f"at {decibels(db)} dB SQNR"
    if before and (db is None or min(before) < db):
        words += f", {decibels(min(before))} dB in front of a saturated end,"
    return f"{words} on {samples_of(proof)}"


def _own_speed(document: Document, documents: Sequence[Document], model: str | None = None) -> MeasuredSpeed | None:
    """The speed of a document's model, where the page shows that of this document."""
    found = speed_of(documents, model or document.of)
    return found if found is not None and found.document is document else None


def _with_speed(words: str, tone: str, speed: MeasuredSpeed | None) -> tuple[str, str]:
    if speed is None:
        return words, tone
    slow = speed.noisy or speed.speedup < 1
    return f"{words}; {speed.words}", "warn" if slow and tone in ("good", "") else tone


def _tuned(document: Document, documents: Sequence[Document]) -> Headline:
    content = document.content
    target = [f"{content['metric']} drop at most {content['max_drop']}"] if content["max_drop"] is not None else []
    target += [f"SQNR at least {content['min_sqnr']:.4g} dB"] if content["min_sqnr"] is not None else []
    model, data = content["evaluation"]["float_model"]["path"], f"DATA{_reading(content)}"
    kept = f"kept: {content['best']['what']}"
    speed = _own_speed(document, documents)
    if content["met"]:
        step = eval_command(_all_asked(content), str(content["output"]), "--latency")
        words, tone = _with_speed(f"Target met ({', '.join(target)}); {kept}", "good", speed)
        return Headline(str(content["output"]), words, tone, step)
    missed = "; ".join(content["missed"]) or "not all data could report"
    words, tone = _with_speed(f"Target missed ({', '.join(target)}): {missed}; {kept}", "bad", speed)
    needed, same = real(content["float_needed"]), f"qtool tune {_word(model)} --data {data}"
    if needed is not None:
        step = _again(content, same, "--max-float-macs", _at_least(needed))
    elif content["training"] is None:
        step = _again(content, same, "--finetune")
    else:
        step = _again(content, same, "--max-float-macs", "100%")
    return Headline(str(content["output"]), words, tone, step)


def _finetuned(document: Document, documents: Sequence[Document]) -> Headline:
    content = document.content
    before, after = (decibels(real(content[name])) for name in ("before_db", "after_db"))
    model, data = _asked(content)
    speed = _own_speed(document, documents)
    if content["kept"]:
        words, tone = _with_speed(f"Better: outputs {before} to {after} dB SQNR on new samples", "good", speed)
        step = eval_command(_all_asked(content), str(content["output"]), "--latency")
        return Headline(str(content["output"]), words, tone, step)
    words = f"Nothing gained: it is the model that training began with, at {before} dB SQNR"
    words, tone = _with_speed(words, "warn", speed)
    step = _again(content, f"qtool finetune {model} --data {data}", "--learning-rate", "0.3")
    return Headline(str(content["output"]), words, tone, step)


def _evaluated(document: Document, documents: Sequence[Document]) -> Headline:
    content = document.content
    models = ", ".join(model["name"] for model in content["candidates"])
    failed = [gate["message"] for gate in content["gates"] if not gate["passed"]]
    step = ""
    if failed:
        words, tone = f"Gate failed: {'; '.join(failed)}", "bad"
        step = f"qtool tune {_word(content['float_model']['path'])} --data {_word(content['data'])}{_reading(content)}"
    elif content["gates"]:
        words, tone = f"Gates passed: {'; '.join(gate['message'] for gate in content['gates'])}", "good"
    else:
        words, tone = f"Compared with float on {amount(content['samples'], 'sample')}", ""
        words += "".join(f"; {text}" for text in _scores(content))
    for model in content["candidates"]:
        if model["nan"]:
            words, tone = f"{words}; {nan_words(model)}", "bad"
    for model in content["candidates"]:
        speed = _own_speed(document, documents, model["name"])
        named = "" if len(content["candidates"]) == 1 else f"; {model['name']}"
        words, tone = _with_speed(f"{words}{named}" if speed is not None else words, tone, speed)
        if not step and speed is not None and speed.speedup < 1 and not speed.noisy:
            step = inspect_command(model["path"], content["float_model"]["path"])
    return Headline(models, words, tone, step)


def _scores(content: Content) -> list[str]:
    """The metrics of the first model beside float's."""
    exact, found = content["float_model"]["metrics"], content["candidates"][0]["metrics"]
    names = [metric["name"] for metric in content["metrics"] if metric["name"] != "sqnr"]
    return [
        f"{name} {number(real(found[name]['value']))}, float {number(real(exact[name]['value']))}" for name in names[:3]
    ]


def _ranked(document: Document, _documents: Sequence[Document]) -> Headline:
    content = document.content
    layers = content["layers"]
    if not layers:
        return Headline(str(content["model"]), "No layer was ranked", "warn")
    result = sensitivity_of(document)
    words = f"Most sensitive of {amount(len(layers), 'layer')}: {layers[0]['name']}"
    names = worth_leaving(result, 1)
    if not names:
        return Headline(str(content["model"]), f"{words}; {NO_GAIN}" if "without" in result.views else words, "")
    words += f"; in float {names[0]} gains most" if names[0] != layers[0]["name"] else ""
    calibration = _given(content, "--calibration") or "FILE"
    step = f"qtool quantize {_word(content['model'])} --calibration {_word(calibration)} {exclude_options(names)}"
    return Headline(str(content["model"]), words, "", step)


def _inspected(document: Document, documents: Sequence[Document]) -> Headline:
    content = document.content
    speed = content["speed"] and real(content["speed"]["speedup"])
    # what is meant so, or cannot be otherwise, is no reason to worry
    dear = [one for one in content["findings"] if one["remedy"] and (real(one["ms_share"]) or 0.0) >= 0.1]
    wrong = any(one["rule"] in _WRONG for one in content["findings"])
    tone = "warn" if dear or (speed is not None and speed < 1) else "" if speed is None else "good"
    advice = str(content["next"])
    data = f"{_word(_given(content, '--data') or 'DATA')}{_reading(content)}"
    if content["kind"] == "float":
        able = any(one["integer_layers"] for one in content["targets"])
        step = quantize_command(
            content["model"], f"--data {data}", content["suggestions"], ran=_given(content, "--data") is not None
        )
        return Headline(str(content["model"]), sentence(content["verdict"]), "", step if able else "", sentence(advice))
    # what a remedy says in words is a command where the float model is known
    source = content["float_model"] or "FLOAT"
    fast = " --optimize-for latency" if FOR_LATENCY in advice else ""
    step = f"qtool quantize {_word(source)} --data {data}{fast}" if REQUANTISE in advice else ""
    if advice == TIME_IT:
        step = f"qtool inspect {_word(content['model'])} --float {_word(source)} --data {data} --latency"
    words = sentence(_in_one_place(document, documents))
    return Headline(str(content["model"]), words, "bad" if wrong else tone, step, sentence(advice))


def _in_one_place(document: Document, documents: Sequence[Document]) -> str:
    """The verdict of an inspection, without the speed and the accuracy that the page shows from another document."""
    content, parts = document.content, []
    speed, noise = speed_of(documents, document.of), noise_of(documents, document.of)
    for part in str(content["verdict"]).split("; "):
        if BESIDE_FLOAT in part:
            parts += [speed.words] if speed is not None and speed.document is document else []
        elif not part.startswith(OUTPUT_SQNR):
            parts.append(part)
        elif noise is None or ": " in part:
            parts.append(f"{part} on {content['inputs_from']}" if content["inputs_from"] else part)
    return "; ".join(parts)


_VERDICTS: dict[str, Callable[[Document, Sequence[Document]], Headline]] = {
    "quantize": _quantized,
    "tune": _tuned,
    "finetune": _finetuned,
    "evaluation": _evaluated,
    "inspect": _inspected,
    "sensitivity": _ranked,
}


def _again(content: Content, same: str, *options: str) -> str:
    """The command line that wrote a document, with other options; `same` asks for the same where it is not known."""
    typed = (content.get("call") or {}).get("typed")
    return again(typed or shlex.split(same)[1:], *options)


def _at_least(share: float) -> str:
    """A share in percent, with one digit behind the point, and not less."""
    return f"{math.ceil(1000 * share) / 10:g}%"


def _asked(content: Content) -> tuple[str, str]:
    """What `quantize` was given, as a shell takes it."""
    asked = content.get("asked") or {}
    return _word(asked.get("model") or "MODEL"), _word(asked.get("data") or "DATA")


def _all_asked(content: Content) -> Asked:
    """All that a command was given, as far as the document says."""
    asked = content.get("asked")
    return Asked() if asked is None else decoded(Asked, asked)


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


def _word(text: str) -> str:
    return shlex.quote(str(text))


def title_of(documents: Sequence[Document]) -> str:
    """Return what the page is about: the name of the model, or of the calibration file, which knows a digest alone."""
    named = [one for one in documents if one.kind != CALIBRATION]
    names = [str(one.content[key]) for key in ("output", "model") for one in named if one.content.get(key)]
    names += [one["candidates"][0]["name"] for one in evaluations(documents)]
    names += [str(one.content["file"]) for one in of_kind(documents, CALIBRATION)]
    return Path(names[0]).name if names else "model"
