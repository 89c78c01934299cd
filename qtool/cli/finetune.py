"""`qtool finetune`: parse, call `finetune`, render."""

from pathlib import Path
from typing import Literal

import click

from qtool.cli.bar import progress_bar
from qtool.cli.choices import check_grid, grid_options, selection_options, warn_of_target
from qtool.cli.common import (
    Command,
    beside,
    data_option,
    json_option,
    labelled_options,
    mask_option,
    quiet_option,
    samples_option,
)
from qtool.cli.config import config_option
from qtool.cli.html import html_option, looked_into, write_page
from qtool.cli.outputs import STDOUT, outputs, show, typed
from qtool.cli.parameters import Duration
from qtool.cli.streams import remark, warn
from qtool.core.records.options import Scheme
from qtool.feeds import LabelledOptions
from qtool.finetuning.finetune import BATCH, EPOCHS, LEARNED, MEMORY, finetune, require_torch
from qtool.finetuning.loss_names import CROSS_ENTROPY
from qtool.report.finetune import bad_lines, finetuned_text
from qtool.targets.tables import find_target


@click.command("finetune", cls=Command)
@click.argument("model", metavar="MODEL")
@click.option(
    "--calibration",
    metavar="FILE",
    help="A file made by `qtool calibrate`: begin with the best plan by it.  [default: calibrate on what trains]",
)
@click.option(
    "--plan", "plan_path", metavar="FILE", help="Begin with this plan instead, of quantize, tune or finetune."
)
@data_option
@click.option("--eval-data", metavar="DATA", help="Data that reports.  [default: a tenth to a quarter of --data]")
@click.option("--metric", metavar="METRIC", help="What chooses and reports, as in eval.  [default: SQNR]")
@click.option(
    "--labels-loss",
    metavar="LOSS",
    help=f"Learn from the labels of --data too: {CROSS_ENTROPY}, MODULE:FUNCTION or file.py:FUNCTION.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), metavar="N", help=f"How often each sample is seen.  [default: {EPOCHS}]"
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="So many steps of training instead.")
@click.option("--time-budget", type=Duration(), metavar="TIME", help="90s, 30m or 2h of training.  [default: none]")
@click.option(
    "--learn",
    default=",".join(LEARNED),
    show_default=True,
    metavar="LIST",
    help="What is learned: weights, biases, scales of activations.",
)
@click.option(
    "--rounding",
    type=click.Choice(["nearest", "learned"]),
    default="nearest",
    show_default=True,
    help="learned: weights move by no more than their rounding, down or up, which is learned.",
)
@click.option(
    "--blocks/--end-to-end",
    "blocks",
    default=None,
    help="Train block by block in the first half of the steps, or end to end alone.  [default: --end-to-end; with "
    "learned rounding --blocks]",
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    default=MEMORY,
    show_default=True,
    metavar="MIB",
    help="For the activations of a block; what is more is read from a file.",
)
@click.option(
    "--no-views",
    "views",
    flag_value=False,
    type=bool,
    default=True,
    help="Train on the pictures as they are alone, not on mirrored and shifted ones too.",
)
@click.option(
    "--learning-rate", type=float, default=1.0, show_default=True, metavar="F", help="How far a step moves: a factor."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=BATCH, show_default=True, metavar="B", help="Samples of a step."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="S", help="Orders samples.")
@click.option("-o", "--output", metavar="FILE", help="The int8 model.  [default: MODEL with .int8.onnx]")
@click.option("--save-plan", metavar="FILE", help="Write the plan with what was learned as JSON, for quantize --plan.")
@click.option("--save-float", metavar="FILE", help="Write the float model with what was learned.")
@click.option("--resume", is_flag=True, help="Go on from OUTPUT.finetune, which an interrupted run leaves.")
@click.option("--static", is_flag=True, help="Begin without dynamic layers, which are not trained.")
@click.option(
    "--provider",
    type=click.Choice(("cpu", "cuda")),
    default="cpu",
    show_default=True,
    help="Where torch trains; cuda needs torch for CUDA and an NVIDIA GPU.",
)
@click.option(
    "--no-partial",
    "partial",
    flag_value=False,
    type=bool,
    default=True,
    help="Begin with every layer in integers, however noisy that is.",
)
@grid_options
@selection_options
@samples_option
@click.option("--threads", type=click.IntRange(min=1), metavar="T", help="Threads of torch.  [default: all cores]")
@labelled_options
@mask_option
@config_option
@json_option
@html_option
@quiet_option
@click.pass_context
def command(
    context: click.Context,
    *,
    model: str,
    calibration: str | None,
    plan_path: str | None,
    data: str,
    eval_data: str | None,
    metric: str | None,
    decode: str | None,
    labels_loss: str | None,
    epochs: int | None,
    steps: int | None,
    time_budget: float | None,
    learn: str,
    rounding: Literal["nearest", "learned"],
    blocks: bool | None,
    memory: int,
    views: bool,
    learning_rate: float,
    batch_size: int,
    seed: int,
    output: str | None,
    save_plan: str | None,
    save_float: str | None,
    resume: bool,
    static: bool,
    provider: str,
    partial: bool,
    scheme: str,
    granularity: str,
    target: str,
    include_ops: tuple[str, ...],
    exclude_ops: tuple[str, ...],
    exclude: tuple[str, ...],
    samples: int | None,
    threads: int | None,
    reading: LabelledOptions,
    json_path: str | None,
    html_path: str | None,
    quiet: bool,
) -> None:
    """Find better numbers for an int8 model by training it to give what the float model gives.

    \b
    Example:
      qtool finetune mobilenetv2.onnx --calibration mobilenetv2.calib --data pictures/ -o mobilenetv2.int8.onnx

    No labels are needed. What is kept is the best state on samples that are held out, or the model as it was: the best
    by SQNR, or by --metric.
    """
    require_torch()
    result_path = beside(model, ".int8.onnx") if output is None else output
    check_grid(context, find_target(target))
    silent = quiet or json_path == STDOUT
    checkpoint = Path(f"{result_path}.finetune")

    def stands() -> str | None:
        return f"{checkpoint} holds what was trained, for --resume" if checkpoint.exists() else None

    written_to = {
        "--output": result_path,
        "--save-plan": save_plan,
        "--save-float": save_float,
        "--json": json_path,
        "--html": html_path,
    }
    with outputs(written_to, stands=stands) as written:
        with progress_bar(silent) as progress:
            result = finetune(
                model,
                data,
                result_path,
                calibration=calibration,
                plan=plan_path,
                eval_data=eval_data,
                metric=metric,
                decode=decode,
                labels_loss=labels_loss,
                epochs=epochs,
                steps=steps,
                time_budget=time_budget,
                learn=learn,
                rounding=rounding,
                blocks=blocks,
                memory=memory,
                views=views,
                learning_rate=learning_rate,
                batch_size=batch_size,
                seed=seed,
                resume=resume,
                scheme=Scheme(scheme, granularity, include_ops, exclude_ops, exclude),  # type: ignore[arg-type]
                target=target,
                form="static" if static else "auto",
                provider=provider,
                partial=partial,
                save_plan=save_plan,
                save_float=save_float,
                samples=samples,
                threads=threads,
                progress=progress,
                **reading,
            )
        if json_path is not None:
            written.json(json_path, result.to_dict())
    seen = looked_into(html_path, result_path, model, data, calibration, reading)
    write_page(html_path, result.to_dict(), *seen)
    if not silent:
        show(finetuned_text(result, typed()))
    else:
        for one in bad_lines(result, typed()):
            remark(one)
    warn(result.warnings)
    warn_of_target(context, find_target(target))
