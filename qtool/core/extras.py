"""The optional packages, and how they are installed."""

PACKAGES = {
    "images": "pillow",
    "text": "tokenizers",
    "generation": "sacrebleu tokenizers",
    "cluster": "distributed",
    "detection": "faster-coco-eval",
    "finetune": "torch",
    "report": "jinja2",
}
"""The packages of each extra of pyproject.toml."""


def installed_by(extra: str) -> str:
    """Return the command that installs what an extra needs, where qtool comes from its folder and where it does not.

    Names of packages alone, since a registry may know another project by the name of this one.
    """
    return f"pip install {PACKAGES[extra]} (or pip install '.[{extra}]' in qtool's folder)"
