import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from experiments.study.page import page_path, write_page
from helpers.browser import REQUIRED, browser, open_page
from helpers.errors import raises_config_error
from helpers.studies import line, write_lines, write_run, write_study

SEEDS = (2, 10, 100)
LINES = [
    *(line('tuned', 7, 8.0, role='tune', candidate=f'lr={lr}') for lr in (0.1, 0.2)),
    *(line('plain', seed, 9.0 + seed / 100) for seed in SEEDS),
    *(
        line('large', seed, 80.0 + seed / 5, test={'toy/accuracy': 80 + seed / 5, 'both/toy': -9.5})
        for seed in SEEDS
    ),
    *(
        line('tuned', seed, 10.0, candidate='lr=0.1', test={'toy/accuracy': 8, 'both/toy': -70.0})
        for seed in SEEDS
    ),
]
#: Heads are clicked as a reader clicks them.
SORT = """
const column = (table, head) => {
  const heads = texts(`#${table} thead th`);
  return texts(`#${table} tbody tr td:nth-child(${heads.indexOf(head) + 1})`);
};
const sort = async (table, head) => {
  click(all(`#${table} thead th`).find((th) => th.textContent.trim() === head));
  await tick();
  return column(table, head);
};
"""
DRAWN = """
found.wide = document.documentElement.scrollWidth - window.innerWidth;
found.loaded = performance.getEntriesByType('resource').map((each) => each.name);
found.figures = {};
for (const figure of all('.plotly-graph-div')) {
  const { width, height } = figure.querySelector('.nsewdrag').getBoundingClientRect();
  found.figures[figure.id] = {
    bands: all('.js-fill', figure).length, lines: all('.scatterlayer .js-line', figure).length,
    bars: all('.xerror', figure).length, points: all('.points .point', figure).length,
    legend: texts('.legendtext', figure), width, height,
  };
}
"""


def written(tmp_path: Path, lines: Sequence[Any], where: str = '') -> Path:
    """Write the page of lines, and return its path."""
    file = write_study(tmp_path)
    write_lines(tmp_path / 'results/toys.jsonl', lines)
    target = page_path(file, where)
    said: list[str] = []
    write_page(file, 'toys', tmp_path / 'results', target, said.append)
    assert said == [f'-> {target}']
    return target


def links(page: Path) -> dict[str, Path]:
    """Return the files that the page links to, by their addresses."""
    addresses = re.findall(r'<a href="([^"]+)"', page.read_text().partition('<body>')[2])
    return {address: page.parent / unquote(address) for address in addresses}


@pytest.mark.slow
def test_page_in_chromium_sorts_numbers_and_draws_curves(tmp_path: Path) -> None:
    for each in LINES:
        write_run(each)
    page = written(tmp_path, LINES)
    script = f"""{SORT}{DRAWN}
    found.scores = [await sort('table-0', 'test toy/accuracy'),
                    await sort('table-0', 'test toy/accuracy')];
    found.differences = await sort('table-0', 'Δ to plain');
    found.both = await sort('table-0', 'both');
    found.seeds = await sort('runs', 'seed');
    found.arms = await sort('runs', 'arm');
    const training = document.getElementById('training-0');
    const title = () => training.querySelector('.ytitle').textContent;
    found.titles = [title()];
    click(training.querySelector('.updatemenu-header'));
    await tick();
    found.menu = texts('.updatemenu-dropdown-button', training);
    click(all('.updatemenu-dropdown-button', training)[2]);
    await tick();
    found.titles.push(title());
    """
    found, console = open_page(page, tmp_path / 'profile', script)
    assert console == []
    assert found['loaded'] == [], 'the page needs a network'
    assert found['wide'] <= 0, 'the page is wider than the window'

    scores = ['8.00 ± 0.00', '9.37 ± 0.54', '87.47 ± 10.88']
    assert found['scores'] == [scores, scores[::-1]]
    assert [cell.partition(' ')[0] for cell in found['differences']] == ['−1.37', '', '+78.09']
    assert found['both'] == ['', '-70.00 ± 0.00', '-9.50 ± 0.00']
    assert found['seeds'] == [*['2'] * 3, *['7'] * 2, *['10'] * 3, *['100'] * 3]
    assert found['arms'] == [*['large'] * 3, *['plain'] * 3, *['tuned'] * 5]

    figures = found['figures']
    assert figures.keys() == {'intervals-0', 'validation-0', 'training-0'}
    assert all(each['width'] > 500 and each['height'] > 50 for each in figures.values())
    assert figures['intervals-0']['points'] == 9 + 3 + 2  # seeds, means, differences
    assert figures['intervals-0']['bars'] == 2
    for name in ('validation-0', 'training-0'):
        assert (figures[name]['bands'], figures[name]['lines']) == (3, 6)
        assert figures[name]['legend'] == ['plain (n 3)', 'large (n 3)', 'tuned (n 3)']
    assert found['titles'] == ['loss', 'loss_cls']
    assert found['menu'] == ['loss', 'lr', 'loss_cls']


@pytest.mark.slow
def test_page_of_lines_alone_in_chromium_has_intervals_and_sorts(tmp_path: Path) -> None:
    page = written(tmp_path, LINES)
    script = f"{SORT}{DRAWN} found.tests = await sort('runs', 'test');"
    found, console = open_page(page, tmp_path / 'profile', script)
    assert (console, found['loaded']) == ([], [])
    assert found['figures'].keys() == {'intervals-0'}
    assert found['tests'] == sorted(found['tests'], key=float)


def test_page_links_to_the_log_and_the_records_of_every_run(tmp_path: Path) -> None:
    """The folder of a candidate has = in its name; other files lie beside the page or not."""
    folders = [write_run(each) for each in LINES]
    (folders[0].parent / 'seed_8').mkdir()
    (folders[0].parent / 'seed_8/run.log').touch()
    for where in ('', str(tmp_path / 'pages here'), str(tmp_path / 'pages/a.html')):
        found = links(written(tmp_path, LINES, where))
        assert all(path.is_file() for path in found.values())
        logs = {path.resolve() for path in found.values() if path.name == 'run.log'}
        assert logs == {
            *(folder / 'run.log' for folder in folders),
            folders[0].parent / 'seed_8/run.log',
        }
        assert len([path for path in found.values() if path.name == 'scalars.json']) == len(LINES)


def test_page_of_lines_alone_names_the_commands_that_make_curves(tmp_path: Path) -> None:
    page = written(tmp_path, LINES)
    text = page.read_text()
    assert 'No run has its folder on this machine' in text
    assert 'python tools/study.py run toys --results work_dirs/results' in text
    assert not links(page)


def test_page_lists_the_runs_whose_files_are_missing(tmp_path: Path) -> None:
    for each in LINES[:-2]:
        write_run(each)
    write_run(line('tuned', 10, 77.0, candidate='lr=0.1'))
    text = written(tmp_path, LINES).read_text()
    assert 'The curves or the log of 2 of 11 runs are not on this machine' in text
    assert '<li>its folder holds another run: <code>tuned lr=0.1</code> seed 10</li>' in text
    assert '<li>no folder on this machine: <code>tuned lr=0.1</code> seed 100</li>' in text
    assert 'tuned (n 1)' in text and 'plain (n 3)' in text


def test_page_many_missing_runs_are_in_the_table_of_runs(tmp_path: Path) -> None:
    write_run(LINES[2])
    some = [line('plain', seed, 1.0, candidate=f'lr={seed}') for seed in range(11)]
    text = written(tmp_path, [*LINES[2:3], *some]).read_text()
    assert 'no folder on this machine: 11 runs; the column <em>files</em> of the runs' in text
    assert len(re.findall(r'<td class="files">\s*no folder on this machine', text)) == 11


def test_page_counts_the_runs_that_the_tables_count(tmp_path: Path) -> None:
    old = [line('plain', seed, 1.0, config_sha256='once') for seed in SEEDS]
    text = written(tmp_path, [*old, line('gone', 2, 1.0), *LINES]).read_text()
    counts = re.findall(r'<td>(yes|no: [^<]+)</td>', text)
    assert counts == [
        *['no: run again since'] * 3,
        'no: no arm of the study',
        *['no: tuning'] * 2,
        *['yes'] * 9,
    ]
    assert '9.37 ± 0.54' in text


def test_page_escapes_text_and_renders_markdown(tmp_path: Path) -> None:
    text = written(
        tmp_path, [*LINES[2:5], line('large', 2, 9.0, versions={'torch': '2.8'})]
    ).read_text()
    assert '<td>labels &lt;alone&gt;</td>' in text
    assert 'Toys, <strong>three</strong> arms.' in text
    assert 'Arm without results: <code>tuned</code> (no description).' in text
    # A version that differs is a column; one that does not is in the text.
    assert '<th>torch</th><th>commit</th>' in text


def test_page_without_curves_of_validation_tells_so(tmp_path: Path) -> None:
    for each in LINES:
        scalars = next(write_run(each).rglob('scalars.json'))
        kept = [text for text in scalars.read_text().splitlines(True) if '"step": 3' in text]
        scalars.write_text(''.join(kept))
    text = written(tmp_path, LINES).read_text()
    assert 'Validation ran once in each run' in text
    assert 'id="validation-0"' not in text


def test_page_path_several_studies_need_a_folder(tmp_path: Path) -> None:
    assert page_path(Path('a.py'), str(tmp_path), 2) == tmp_path / 'a.html'
    with raises_config_error('--html', 'one.html', '2 studies', fix='Name a folder'):
        page_path(Path('a.py'), 'one.html', 2)


def test_write_page_study_without_lines_is_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    write_page(write_study(tmp_path), 'toys', tmp_path, tmp_path / 'page.html', said.append)
    assert said == ['toys: no results, left out']
    assert not (tmp_path / 'page.html').exists()


def test_browser_missing_is_a_failure_if_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', '')
    monkeypatch.delenv(REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match='apt-get install chromium'):
        browser()
    monkeypatch.setenv(REQUIRED, '1')
    with pytest.raises(pytest.fail.Exception, match='apt-get install chromium'):
        browser()
