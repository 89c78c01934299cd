"""The models that were tried: the candidates of `quantize`, the steps of `tune`, the rounds of `finetune`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qtool.core.records.verification import percent
from qtool.core.text import amount
from qtool.report.html.blocks import Block, Cell, Column, Legend, Listing, Note, Section
from qtool.report.html.documents import Document, of_kind
from qtool.report.html.figures import count_cell, db_cell, finite, number_cell, real, share_cell
from qtool.report.html.plots import Axis, Dot, plot, ranked
from qtool.report.words import beyond_limit

Content = Mapping[str, Any]
_KEPT = (Legend("kept", "good"), Legend("tried", "int"))


def trials(documents: Sequence[Document]) -> list[Section]:
    """Return a section for each document that tried several models."""
    draw = {"quantize": _candidates, "tune": _steps, "finetune": _rounds}
    tried = [one for one in of_kind(documents, *draw) if one.kind != "quantize" or _has_tried(one.content)]
    return [replace(draw[one.kind](one.content), of=one.of) for one in tried]


def _has_tried(content: Content) -> bool:
    return bool(content["trials"] or (content["verdict"] and content["verdict"]["left"]))


def _candidates(content: Content) -> Section:
    rows = content["trials"]
    dots = []
    for place, row in enumerate(rows, 1):
        db = finite(row["sqnr_db"])
        if db is not None:
            tone = "good" if place == 1 else "int"
            dots.append((_words(row), Dot(db, 0.0, f"{_words(row)}: {db:.1f} dB", tone, place == 1)))
    blocks: list[Block] = []
    if dots:
        label = f"SQNR of the outputs with each of {amount(len(dots), 'candidate')}, the best first"
        blocks.append(ranked("SQNR of the outputs, the best candidate first", label, dots, Axis("dB"), legend=_KEPT))
    timed = any(row["latency_ms"] is not None for row in rows)
    columns = [Column("place", number=True), Column("candidate"), Column("form"), Column("SQNR dB", number=True)]
    columns += [Column("latency ms", number=True)] if timed else []
    columns.append(Column("samples", number=True, about="that it was measured on; the best ones are on all"))
    listed = []
    for place, row in enumerate(rows, 1):
        cells = [count_cell(place), Cell(_words(row)), Cell(row["form"]), db_cell(row["sqnr_db"])]
        cells += [number_cell(row["latency_ms"], 3)] if timed else []
        listed.append((*cells, count_cell(row["samples"])))
    lead = "Its calibrator was given, so that there was nothing to choose but what stays in float."
    if rows:
        folded = amount(len(listed), "candidate")
        blocks.append(Listing("The candidates as a table", tuple(columns), tuple(listed), folded=folded))
        lead = "Each was made, run by onnxruntime on examples of the calibration, and held against float."
    verdict = content["verdict"]
    if verdict and verdict["left"]:
        left = [(", ".join(one["nodes"][:3]), one["macs_share"], one["gain_db"]) for one in verdict["left"]]
        columns = [Column("left in float for accuracy"), Column("MACs", number=True), Column("gained dB", number=True)]
        blocks.append(
            Listing("Left in float", tuple(columns), tuple((Cell(n), share_cell(s), db_cell(g)) for n, s, g in left))
        )
        over = beyond_limit(verdict["float_macs"], verdict["max_float_macs"])
        together = f"Together {percent(verdict['float_macs'])} of multiply-accumulates"
        blocks.append(Note(f"{together}, {over}." if over else f"{together}.", "muted"))
    return Section("trials", "What was tried", lead, tuple(blocks))


def _words(row: Content) -> str:
    words = (
        str(row["calibrator"])
        + (" smoothed" if row["smoothed"] else "")
        + (f", {row['floats']}" if row["floats"] else "")
    )
    return words + (" refined" if row["refined"] else " corrected" if row["bias_correction"] else "")


def _steps(content: Content) -> Section:
    """Accuracy against the share in float, and the trail in its order."""
    steps, best = content["steps"], content["best"]
    held = best["measured"]
    # a metric that says the same of all is no axis
    by_metric = held != "sqnr" and len({finite(step["metric"]) for step in steps} - {None}) > 1
    blocks: list[Block] = [
        *(_shares(content, "metric", held) if by_metric else []),
        *_shares(content, "sqnr_db", "SQNR"),
    ]
    columns = (
        Column("step", number=True),
        Column("model"),
        Column(held, number=True),
        Column("drop", number=True),
        Column("SQNR dB", number=True),
        Column("in float", number=True, about="share of the multiply-accumulates"),
        Column("target"),
    )
    rows = []
    for place, step in enumerate(steps, 1):
        drop = real(step["drop"])
        words = "-" if drop is None else f"{100 * drop:.2f} %" if step["relative"] else f"{drop:.4f}"
        target = Cell("met", tone="good") if step["met"] else Cell("missed", tone="bad")
        cells = (number_cell(step["metric"]), Cell(words, -1.0 if drop is None else drop), db_cell(step["sqnr_db"]))
        rows.append((count_cell(place), Cell(step["what"]), *cells, share_cell(step["float_macs"]), target))
    blocks.append(Listing("The trail, in order", columns, tuple(rows)))
    reasons: dict[str, list[str]] = {}
    for what, why in content["untried"].items():
        reasons.setdefault(why, []).append(what)
    blocks += [Note(f"Not tried: {'; '.join(what)} ({why})", "muted") for why, what in reasons.items()]
    return Section("trials", "What was tried", f"Data: {content['split']}.", tuple(blocks))


def _shares(content: Content, key: str, name: str) -> list[Block]:
    """A figure of the steps against the share in float; against their order where nothing was left in float."""
    steps, best = content["steps"], content["best"]
    shares = any(step["float_macs"] for step in steps)
    dots = []
    for place, step in enumerate(steps, 1):
        value = finite(step[key])
        if value is not None:
            kept = step == best
            tone = "good" if kept else "int" if step["met"] else "bad"
            across = step["float_macs"] if shares else float(place)
            dots.append(Dot(across, value, f"{step['what']}: {value:.4g}", tone, kept))
    if not dots:
        return []
    # the one that was kept lies above others in its place
    dots.sort(key=lambda dot: dot.large)
    legend = (*_KEPT[:1], Legend("meets the target", "int"), Legend("misses it", "bad"))
    against = "the share of multiply-accumulates in float" if shares else "the steps; none has a layer in float for it"
    label = f"{name} of {amount(len(dots), 'model')} against {against}"
    below = Axis("multiply-accumulates in float", 0.0, 0.02, percent=True) if shares else Axis("step")
    axes = (below, Axis("dB" if key == "sqnr_db" else name))
    return [plot(f"{name} against {against}", label, dots, axes, legend=legend)]


def _rounds(content: Content) -> Section:
    rounds = [one for one in content["rounds"] if finite(one["held_out_db"]) is not None]
    blocks: list[Block] = []
    if rounds:
        best = max(rounds, key=lambda one: float(one["held_out_db"]))
        dots = [
            Dot(
                one["step"],
                one["held_out_db"],
                f"step {one['step']}: {one['held_out_db']:.2f} dB",
                "good" if one is best else "int",
                one is best,
            )
            for one in rounds
        ]
        label = f"SQNR of the samples that choose, over {amount(content['steps'], 'step')} of training"
        legend = (Legend("best", "good"), Legend("measured", "int"))
        axes = (Axis("step"), Axis("dB"))
        blocks.append(plot("SQNR of the samples that choose", label, dots, axes, joined=True, legend=legend))
    losses = [(one["step"], loss) for one in content["rounds"] if (loss := finite(one["loss"])) is not None]
    if len(losses) > 1:
        label = f"Loss of the samples that train, over {amount(content['steps'], 'step')} of training"
        dots = [Dot(step, loss, f"step {step}: {loss:.3g}") for step, loss in losses]
        axes = (Axis("step"), Axis("noise over signal"))
        blocks.append(plot("Loss of the samples that train", label, dots, axes, joined=True))
    name = content["metric"]["name"] if content["metric"] else "metric"
    columns = (
        Column("step", number=True),
        Column("loss", number=True, about="noise in units of the signal's power, of the samples that train"),
        Column("SQNR dB", number=True, about="of the samples that choose"),
        Column(name, number=True, about="of the samples that choose"),
    )
    rows = tuple(
        (count_cell(o["step"]), number_cell(o["loss"]), db_cell(o["held_out_db"]), number_cell(o.get("metric")))
        for o in content["rounds"]
    )
    blocks.append(Listing("Rounds", columns, rows, folded=amount(len(rows), "round")))
    if content["untrained"]:
        names = (Column("layer"), Column("why it was not trained"))
        blocks.append(Listing("Not trained", names, tuple((Cell(n), Cell(w)) for n, w in content["untrained"].items())))
    learned = ", ".join(f"{count:,} {name}" for name, count in content["learned"].items())
    lead = f"{amount(content['steps'], 'step')} in {content['seconds']:.0f} s; learned: {learned}. "
    lead += f"Data: {content['split']}."
    return Section("trials", "Training", lead, tuple(blocks))
