"""`--help`: what it says, and that it is cheap."""

import os
import re
import subprocess
import sys

import pytest

from qtool.cli import COMMANDS, main
from tests.support.places import REPOSITORY

READING = " --preprocess --tokenizer --max-length --trim"
# of the issues that asked for the commands
OPTIONS = {
    "calibrate": "--data -o --samples --batch-size --threads --preprocess --json -q --config --shard --checkpoint "
    "--workers --cluster --provider",
    "merge": "-o --json -q --config",
    "quantize": "--html --calibration --data -o --calibrator --percentile --scheme --granularity --target --include-op "
    "--exclude-op --exclude --config --save-plan --plan --json -q",
    "sensitivity": "--html --calibration --data --metric --view --calibrator --percentile --target --samples --threads "
    "--memory --preprocess -o --json -q --config --workers --cluster",
    "tune": "--html --data --eval-data --metric --max-drop --calibrators --max-float-macs --time-budget -o --json -q "
    "--config --workers --cluster --provider",
    "finetune": "--html --calibration --plan --data --eval-data --epochs --steps --time-budget --learn --learning-rate "
    "--batch-size --seed -o --save-plan --save-float --resume --no-partial --granularity --threads --json -q --config",
    "report": "-o --model-explorer --config -q",
    "eval": "--html --data --metric --max-drop --min-sqnr --samples --latency --threads --json --junit --markdown -q "
    "--config --workers --cluster --provider",
    "schema": "",
    "inspect": "--float --data --latency --html --model-explorer --json -q --config -v",
    "diff": "--data --latency --calibrator --json -q --config -v",
}


@pytest.fixture
def run(capsys):
    """Runs `qtool ...`: the exit code, stdout, stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        streams = capsys.readouterr()
        return caught.value.code, streams.out, streams.err

    return call


@pytest.mark.parametrize("command", COMMANDS)
def test_help_opens_with_a_sentence_then_an_example(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    paragraphs = [" ".join(p.split()) for p in out.split("\n\n")]
    assert paragraphs[0].startswith(f"Usage: qtool {command} ")
    assert re.fullmatch(r"[A-Z][^.]*\.", paragraphs[1])
    assert paragraphs[2].startswith(f"Example: qtool {command} ")
    wanted = OPTIONS[command] + (READING if "--data" in OPTIONS[command] else "")
    missing = [o for o in wanted.split() if not re.search(rf"(^|\s|,){re.escape(o)}[\s,]", out)]
    assert not missing
    assert run(command, "-h") == (code, out, err)
    rule = "Print errors, warnings, failed gates and bad verdicts only, on stderr."
    assert (rule in " ".join(out.split())) is (command != "schema")


def test_help_of_everything_names_the_exit_codes(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "Exit codes: 0 done, 1 a gate failed, 2 wrong usage or bad input, 3 a bug of qtool." in " ".join(out.split())
    assert all(re.search(rf"^  {command} ", out, re.MULTILINE) for command in COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_help_imports_nothing_heavy(arguments):
    program = (
        "import sys\nfrom qtool.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'onnx_ir', 'tqdm', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_importing_the_package_costs_nothing():
    program = "import sys, qtool\nprint([m for m in ('numpy', 'onnx', 'onnxruntime', 'click') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.stdout == "[]\n"


def test_only_quantize_does_without_data(run):
    assert "needs no data" in run("quantize", "--help")[1]
    assert "needs no data" not in run("sensitivity", "--help")[1]
