"""The parts of a demo: its trainings, what each must wait for, and the metric of the table."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from mmkd_plugin.engine.stages import Stage, load_stages
from mmkd_plugin.errors import ConfigError


@dataclass(frozen=True)
class Training:
    """One config of a demo.

    Args:
        name: Stem of the config file, and name of the training's folder.
        label: Name in the table.
        needs: Names of the trainings whose checkpoints it loads.
    """

    name: str
    label: str = ''
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """The metric on the test images at the end of a training.

    Args:
        key: Key of the evaluator's metric, such as ``accuracy/top1``.
        title: Head of its column in the table.
        sentence: Format of a value in a sentence, with one number.
        cell: Format of a value in the table.
        scale: Factor for the evaluator's values.
    """

    key: str
    title: str
    sentence: str
    cell: str = '{:.1f}'
    scale: float = 1.0


@dataclass(frozen=True)
class Demo:
    """Teachers, the students that are distilled from them, and their comparison.

    Args:
        name: Name of its folder below the work root.
        about: Its purpose, for the first line: "Seven trainings on …".
        configs: Folder of the configs.
        teachers: Trained and measured.
        students: Trained, measured, and compared with the student ``against``.
        measure: Metric of the comparison.
        against: Name of the student that the others are compared with.
        against_title: Head of the column of differences.
        between: Trained after the teachers, neither measured nor in the table.
        data: Line that is printed before a data set writes its files at first use.

    Raises:
        ConfigError: If two trainings have one name, one needs another that does not come before
            it, or ``against`` is not a student.
    """

    name: str
    about: str
    configs: Path
    teachers: tuple[Training, ...]
    students: tuple[Training, ...]
    measure: Measure
    against: str
    against_title: str
    between: tuple[Training, ...] = ()
    data: str = ''

    def __post_init__(self) -> None:
        before: list[str] = []
        for training in self.trainings:
            if training.name in before:
                raise ConfigError(training.name, 'must be the name of one training')
            for name in training.needs:
                if name not in before:
                    raise ConfigError(
                        f'{training.name}.needs',
                        'must name trainings that come before it',
                        f'These are {", ".join(before) or "none"}.',
                        found=name,
                    )
            before.append(training.name)
        students = [student.name for student in self.students]
        if self.against not in students:
            raise ConfigError(
                'against', f'must be one of the students {", ".join(students)}', found=self.against
            )

    @property
    def trainings(self) -> tuple[Training, ...]:
        """All trainings, in the order in which they begin if none has to wait."""
        return (*self.teachers, *self.between, *self.students)

    def load(
        self, root: str | Path, edit: Callable[[Config], object] = lambda cfg: None
    ) -> dict[str, Stage]:
        """Return the trainings by name, with their folders below ``root``.

        Args:
            root: Work root.
            edit: Changes each config.
        """
        paths = [self.configs / f'{training.name}.py' for training in self.trainings]
        return {
            stage.folder.name: stage
            for stage in load_stages(paths, str(Path(root).absolute()), edit)
        }
