"""What a demo consists of: its configs, what each must wait for, and what is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from mmkd_plugin.engine.stages import Stage, load_stages


@dataclass(frozen=True)
class Training:
    """One config of a demo.

    Args:
        name: Stem of the config file, and name of the training's folder.
        what: What the table calls it.
        needs: Names of the trainings whose checkpoints it reads.
    """

    name: str
    what: str = ''
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """What is measured on the test images at the end of a training.

    Args:
        key: Of the evaluator's metrics, as ``accuracy/top1``.
        title: Its name at the head of the table.
        told: How a value is said in a sentence, and ...
        cell: ... in the table: formats with one number.
        scale: Number that the evaluator's values are multiplied by.
    """

    key: str
    title: str
    told: str
    cell: str = '{:.1f}'
    scale: float = 1.0


@dataclass(frozen=True)
class Demo:
    """Teachers, the students that they teach, and what these are compared by.

    Args:
        name: Name of its folder below the work root.
        about: What it does, for the first line: "Seven trainings on ...".
        configs: Folder of the configs.
        teachers: Trained and measured.
        students: Trained, measured, and compared with the one called ``against``.
        measure: What is measured.
        against: Name of the student that is the measure of the others.
        against_title: What the table calls it.
        between: Trained after the teachers, not measured, and not in the table.
        data: What is said before the data are written, where a data set writes them at first use.

    Raises:
        ValueError: If two trainings have one name, one needs another that does not come before it, or ``against`` is no student.
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
                raise ValueError(
                    f'{training.name}: expected one training of this name, got another one'
                )
            if unknown := [name for name in training.needs if name not in before]:
                raise ValueError(
                    f'{training.name}.needs: expected some of {before}, which come before it, got {unknown}'
                )
            before.append(training.name)
        students = [student.name for student in self.students]
        if self.against not in students:
            raise ValueError(f'against: expected one of {students}, got {self.against!r}')

    @property
    def trainings(self) -> tuple[Training, ...]:
        """All, in the order in which they begin where nothing has to be waited for."""
        return (*self.teachers, *self.between, *self.students)

    def load(
        self, root: str | Path, edit: Callable[[Config], object] = lambda cfg: None
    ) -> dict[str, Stage]:
        """The trainings by name, below ``root``; ``edit`` may change each config."""
        paths = [self.configs / f'{training.name}.py' for training in self.trainings]
        return {
            stage.folder.name: stage
            for stage in load_stages(paths, str(Path(root).absolute()), edit)
        }
