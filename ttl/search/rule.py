"""The rule by which a model is selected: the numbers that `params.yaml` states."""

from dataclasses import dataclass

from ttl.errors import ParamsError


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRule:
    """A model is non-inferior if its AUROC's difference from the reference's surely exceeds −`margin`.

    Surely: by the lower bound of the two-sided interval at `confidence`, from `resamples` bootstrap samples
    of patients. (At 0.95, a one-sided test at 2.5 %, as is usual for non-inferiority: Piaggio et al., JAMA
    2012.) With fewer `patients` of a class in the validation split nothing is non-inferior: a bootstrap of a
    handful says nothing. Where images have several labels, AUROC is the mean over those that so many patients
    have, and so many lack; the others are named, and if there is none, nothing is non-inferior.
    """

    margin: float = 0.01
    confidence: float = 0.95
    resamples: int = 2000
    patients: int = 10

    def __post_init__(self) -> None:
        """Refuse values that make no rule."""
        if not 0 <= self.margin < 0.5:
            raise ParamsError(f"selection.margin is {self.margin}; it must be from 0 to under 0.5")
        if not 0.5 <= self.confidence < 1:
            raise ParamsError(f"selection.confidence is {self.confidence}; it must be from 0.5 to under 1")
        if self.resamples < 200:
            raise ParamsError(f"selection.resamples is {self.resamples}; it must be at least 200")
        if self.patients < 2:
            raise ParamsError(f"selection.patients is {self.patients}; it must be at least 2")
