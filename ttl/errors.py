"""The errors a user can meet: each says what was wrong, with which value, and what to do."""


class TTLError(Exception):
    """Base of every error that the command line shows as one message, without a traceback."""


class ParamsError(TTLError):
    """`params.yaml`, or an option that overrides it, has a value that cannot be used."""


class DataError(TTLError):
    """A dataset, its files or its labels cannot be used as they are."""


class TooFewError(DataError):
    """There are too few images or patients to tell."""


class ModelError(TTLError):
    """A backbone, its weights, a cut or a strategy cannot be built."""


class TrialError(TTLError):
    """A trial cannot go on; the sweep records it as failed and continues."""


class LostLossError(TrialError):
    """A training loss, or an output, is not finite: a device's passing fault, or one that comes again."""


class SearchError(TTLError):
    """A sweep's results cannot be planned, aggregated or selected from."""


class ReleaseError(TTLError):
    """A model cannot be exported, registered or loaded."""


class ServiceError(TTLError):
    """A service that a flow needs (Prefect, storage) cannot be reached."""
