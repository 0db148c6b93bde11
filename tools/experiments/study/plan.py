"""The parts of a study: arms, seeds, and the runs that follow. See docs/studies.md."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mmengine.config import Config

from mmkd_plugin.engine.stages import Stage, config_text


@dataclass(frozen=True)
class Candidate:
    """A resolved config. ``sha256`` covers it and its teachers' configs, not the seed."""

    cfg: Config = field(repr=False)
    sha256: str


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared.

    Args:
        name: Its name: ``setting/arm``, or ``arm`` to stand in every table.
        about: Its description in the table.
        metric: Metric that its runs are compared by.
        candidates: Configs that validation chooses among, by name; a single one is named ``''``.
        chosen_by: Name of the arm whose tuning chooses: this one, or the one it is a part of.
    """

    name: str
    about: str
    metric: str
    candidates: Mapping[str, Candidate]
    chosen_by: str


@dataclass(frozen=True)
class Run:
    """One training: an arm's candidate with a seed. ``role`` is ``'report'`` or ``'tune'``."""

    arm: str
    name: str
    candidate: Candidate
    seed: int
    role: str

    @property
    def key(self) -> tuple[str, int, str]:
        """Its identity, as :func:`~experiments.study.lines.line_key` returns it for a line."""
        return self.arm, self.seed, self.candidate.sha256


@dataclass(frozen=True)
class Study:
    """A study file, checked, with its configs resolved.

    Args:
        name: Stem of the file.
        question: Heading of the report.
        about: Text below the heading.
        metric: Metric of the arms that name none.
        scale: Factor for all metrics in tables.
        columns: Further metrics that tables show, by heading.
        baseline: Arm that the others are compared with; or one for each table.
        seeds: Seeds of the reported runs.
        tune_seeds: Seeds of the tuning runs.
        prepare: Trainings that the arms load, by name.
        arms: The arms, by name.
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
        """Return the arm, without its setting, that the others of a table are compared with."""
        return self.baseline if isinstance(self.baseline, str) else self.baseline[setting]

    def waves(self) -> list[list[str]]:
        """Return the names of ``prepare`` in groups that can be trained side by side.

        A training waits for those whose folder its config names.
        """
        waves: list[list[str]] = []
        depth: dict[str, int] = {}
        for name, stage in self.prepare.items():
            needed = [depth[other] + 1 for other in named_stages(config_text(stage.cfg), depth)]
            depth[name] = max(needed, default=0)
            waves += [[]] * (depth[name] + 1 - len(waves))
            waves[depth[name]] = [*waves[depth[name]], name]
        return waves


def named_stages(text: str, names: Iterable[str]) -> list[str]:
    """Return those of ``names`` whose folder occurs in a config's text."""
    return [name for name in names if f'/{name}/' in text]
