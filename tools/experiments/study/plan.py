"""What a study is: arms, seeds, and the runs that follow from its file. docs/studies.md tells how to write one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mmengine.config import Config

from mmkd_plugin.engine.stages import Stage, config_text


@dataclass(frozen=True)
class Candidate:
    """A resolved config; ``sha256`` covers it and its teachers', not the seed."""

    cfg: Config = field(repr=False)
    sha256: str


@dataclass(frozen=True)
class Arm:
    """One thing that is compared: what validation chooses among, by name; a single one named '' is not chosen.

    ``metric`` is what its runs are compared by. ``chosen_by`` names the arm whose tuning chooses: this one, or the one that this
    takes a part away from.
    """

    name: str
    about: str
    metric: str
    candidates: Mapping[str, Candidate]
    chosen_by: str


@dataclass(frozen=True)
class Run:
    """One training: an arm's candidate with a seed, for the report or for tuning (its role)."""

    arm: str
    name: str
    candidate: Candidate
    seed: int
    role: str

    @property
    def key(self) -> tuple[str, int, str]:
        return self.arm, self.seed, self.candidate.sha256


@dataclass(frozen=True)
class Study:
    """A study file, checked, with its configs resolved.

    ``columns`` are further metrics that tables show, by heading; ``scale`` multiplies all metrics there.
    """

    name: str
    question: str
    about: str
    metric: str
    scale: float
    columns: Mapping[str, str]
    baseline: str | Mapping[str, str]
    seeds: tuple[int, ...]
    tune_seeds: tuple[int, ...]
    prepare: Mapping[str, Stage]
    arms: Mapping[str, Arm]

    def baseline_of(self, setting: str) -> str:
        """The arm, without its setting, that the others of a table are compared with."""
        return self.baseline if isinstance(self.baseline, str) else self.baseline[setting]

    def waves(self) -> list[list[str]]:
        """Names of ``prepare``, those that can be trained side by side together: a stage waits for those whose folder it names."""
        waves: list[list[str]] = []
        depth: dict[str, int] = {}
        for name, stage in self.prepare.items():
            needed = [depth[other] + 1 for other in named_stages(config_text(stage.cfg), depth)]
            depth[name] = max(needed, default=0)
            waves += [[]] * (depth[name] + 1 - len(waves))
            waves[depth[name]] = [*waves[depth[name]], name]
        return waves


def named_stages(text: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` whose folder a config speaks of."""
    return [name for name in names if f'/{name}/' in text]
