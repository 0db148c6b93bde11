"""The studies of this repository: their files, and the lines of docs/results."""

from pathlib import Path

import pytest
from experiments.study.lines import read_lines
from experiments.study.load import load_study, study_files
from experiments.study.run import StudyRunner

RESULTS = Path(__file__).parents[3] / 'docs/results'
#: Arms that were added to a study after its runs.
NOT_RUN = {'detection': 5}
#: Studies without any run yet.
PLANNED = ('shallow',)


@pytest.mark.slow
@pytest.mark.parametrize('file', study_files(), ids=lambda file: file.stem)
def test_study_configs_are_those_of_the_results(file: Path) -> None:
    """A run is its arm, seed and resolved config: a changed config would make its lines void."""
    lines = RESULTS / f'{file.stem}.jsonl'
    if file.stem in PLANNED:
        assert load_study(file).arms and not lines.exists()
        return
    assert read_lines(lines)
    counts = StudyRunner(load_study(file), lines, jobs=1).counts()
    assert counts['tune'][0] == 0
    assert counts['report'][0] == NOT_RUN.get(file.stem, 0)
