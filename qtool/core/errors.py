"""What can go wrong, as types. Every message is one line that names the file, tensor or node, and the remedy.

The command line turns any `QtoolError` into that line and exit code 2; nothing has been written then.
"""


class QtoolError(Exception):
    """Base of everything qtool raises on purpose."""


class UsageError(QtoolError):
    """An option, a configuration file or an argument makes no sense."""


class ModelError(QtoolError):
    """A file that is not a model, or a model that qtool must not touch."""


class NothingToQuantizeError(ModelError):
    """The model holds no operator that an integer kernel would run on this target."""


class AlreadyQuantizedError(ModelError):
    """The model already contains quantised operators."""


class DataError(QtoolError):
    """The calibration or evaluation data cannot be fed to the model."""


class CalibrationError(QtoolError):
    """A calibration file is unreadable, of another version, or of another model."""


class OutputError(QtoolError):
    """An output cannot be written."""


class VerificationError(QtoolError):
    """The quantised model would compute something else than planned."""


class WorkerError(QtoolError):
    """Work that was given to another process or machine could not be done there."""
