import hashlib
import os
import pickle
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleLR
from torch import Tensor, nn

from mmkd_plugin.loading.checkpoint import load_file, load_weights, student_checkpoint


def save(content: Any, path: Path, **options: Any) -> str:
    torch.save(content, path, **options)
    return str(path)


def test_content_and_hash_of_the_file(tmp_path: Path) -> None:
    path = save(dict(state_dict=dict(a=torch.arange(3))), tmp_path / 'a.pth')
    loaded = load_file(path, 'key')
    assert loaded.content['state_dict']['a'].tolist() == [0, 1, 2]
    assert loaded.sha256 == hashlib.sha256(Path(path).read_bytes()).digest()


def test_what_a_runner_writes_is_read(tmp_path: Path) -> None:
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    log = {
        'train/loss': history,
        'lr': np.float64(0.1),
        'flag': np.bool_(True),
        'n': np.int64(2),
        'x': np.arange(2),
    }
    path = save(dict(state_dict={}, message_hub=dict(log_scalars=log)), tmp_path / 'a.pth')
    read = load_file(path, 'key').content['message_hub']['log_scalars']
    assert read['train/loss'].mean() == 2.0
    assert (read['lr'], read['flag'], read['n'], read['x'].tolist()) == (0.1, True, 2, [0, 1])


class Runs:
    """A pickle of it calls ``function(*arguments)`` when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize('new_format', [True, False])
def test_a_pickle_that_wants_to_run_code_is_refused_and_did_not_run(
    tmp_path: Path, new_format: bool
) -> None:
    trace = tmp_path / 'trace'
    path = save(
        dict(state_dict=Runs(os.system, f'touch {trace}')),
        tmp_path / 'a.pth',
        _use_new_zipfile_serialization=new_format,
    )
    with pytest.raises(
        ValueError,
        match=r'^key: expected a checkpoint of tensors, .* wants to run code: .*posix.system',
    ):
        load_file(path, 'key')
    assert not trace.exists()


@pytest.mark.parametrize('protocol', [2, 4])
def test_a_bare_pickle_does_not_run_either(tmp_path: Path, protocol: int) -> None:
    trace, path = tmp_path / 'trace', tmp_path / 'a.pth'
    path.write_bytes(pickle.dumps(Runs(os.system, f'touch {trace}'), protocol))
    with pytest.raises(ValueError, match=r'^key: expected a checkpoint'):
        load_file(str(path), 'key')
    assert not trace.exists()


@pytest.mark.parametrize(
    ('owner', 'name'), [(HistoryBuffer, '__init__'), (HistoryBuffer, 'update'), (Tensor, 'mean')]
)
def test_getattr_gives_the_statistics_of_a_history_and_nothing_else(
    tmp_path: Path, owner: type, name: str
) -> None:
    with torch.serialization.safe_globals([Tensor]):
        path = save(dict(a=Runs(getattr, owner, name)), tmp_path / 'a.pth')
        with pytest.raises(ValueError, match=rf"^key: .*may not ask for the attribute '{name}'"):
            load_file(path, 'key')


@pytest.mark.parametrize('new_format', [True, False])
def test_a_truncated_file_is_called_so_wherever_it_ends(tmp_path: Path, new_format: bool) -> None:
    path = tmp_path / 'a.pth'
    save(dict(a=torch.zeros(500)), path, _use_new_zipfile_serialization=new_format)
    whole = path.read_bytes()
    for length in (0, 1, 3, 10, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf'^key: expected a checkpoint, got .*{path}'):
            load_file(str(path), 'key')


@pytest.mark.parametrize(
    'text', ['<html>404</html>', 'version https://git-lfs.github.com/spec/v1\noid sha256:0']
)
def test_a_file_that_is_no_checkpoint_is_not_called_an_attack(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'a.pth'
    path.write_text(text)
    with pytest.raises(
        ValueError, match=r'^key: expected a checkpoint, got .*, which torch.save did not write$'
    ):
        load_file(str(path), 'key')


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / 'none.pth', tmp_path):
        with pytest.raises(
            ValueError, match=rf'^key: expected a checkpoint file or URL, found no file at {path}$'
        ):
            load_file(str(path), 'key')


def test_a_list_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'^key: expected a checkpoint dict, got list'):
        load_file(save([1], tmp_path / 'a.pth'), 'key')


def test_weights_load_with_and_without_the_prefix_of_a_wrapper(tmp_path: Path) -> None:
    source = nn.Linear(2, 3)
    wrapped = {f'module.{name}': value for name, value in source.state_dict().items()}
    for content in (
        source.state_dict(),
        dict(state_dict=source.state_dict()),
        dict(state_dict=wrapped),
    ):
        target = nn.Linear(2, 3)
        path = save(content, tmp_path / 'a.pth')
        assert (
            load_weights(target, path, 'key').sha256
            == hashlib.sha256(Path(path).read_bytes()).digest()
        )
        torch.testing.assert_close(target.weight, source.weight)


@pytest.mark.parametrize(
    ('meta', 'classes'),
    [
        (dict(dataset_meta=dict(classes=('cat', 'dog'))), ('cat', 'dog')),
        (dict(dataset_meta=dict(CLASSES=['cat', 'dog'])), ('cat', 'dog')),
        (dict(CLASSES=('cat', 'dog')), ('cat', 'dog')),
        (dict(dataset_meta=dict()), None),
        (None, None),
    ],
)
def test_the_names_of_the_classes_are_read(meta: object, classes: object, tmp_path: Path) -> None:
    net = nn.Linear(2, 3)
    path = save(dict(meta=meta, state_dict=net.state_dict()), tmp_path / 'a.pth')
    assert load_weights(net, path, 'key').classes == classes


def test_the_versions_of_modules_survive(tmp_path: Path) -> None:
    """Some heads of MMDet rename keys of a checkpoint that states no version."""

    class Versioned(nn.Linear):
        _version = 7

        def _load_from_state_dict(
            self, state_dict: Any, prefix: str, metadata: dict[str, Any], *rest: Any
        ) -> None:
            seen.append(metadata.get('version'))
            super()._load_from_state_dict(state_dict, prefix, metadata, *rest)

    seen: list[int | None] = []
    load_weights(Versioned(2, 3), save(Versioned(2, 3).state_dict(), tmp_path / 'a.pth'), 'key')
    assert seen == [7]


def test_every_missing_unexpected_and_misshaped_key_is_an_error(tmp_path: Path) -> None:
    state = OrderedDict(weight=torch.zeros(5, 2), other=torch.zeros(1))
    message = (
        r'^key: expected the weights of this very model, got .* with 1 keys missing \(bias\), 1 keys unexpected '
        r'\(other\), 1 keys of another shape \(size mismatch for weight.*\[5, 2\].*\[3, 2\]'
    )
    with pytest.raises(ValueError, match=message):
        load_weights(nn.Linear(2, 3), save(state, tmp_path / 'a.pth'), 'key')


def test_a_file_without_tensors_is_no_state_dict(tmp_path: Path) -> None:
    for content in ({}, dict(state_dict={}), dict(epoch=3), dict(state_dict=dict(a=1))):
        with pytest.raises(ValueError, match=r'^key: expected a state dict of tensors'):
            load_weights(nn.Linear(2, 3), save(content, tmp_path / 'a.pth'), 'key')


def test_a_distillers_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    state = {f'student.{name}': value for name, value in nn.Linear(2, 3).state_dict().items()}
    with pytest.raises(ValueError, match=r'export its student first \(tools/export_student.py\)'):
        load_weights(nn.Linear(2, 3), save(state, tmp_path / 'a.pth'), 'key')


def test_the_student_of_a_checkpoint() -> None:
    content = dict(
        meta=dict(epoch=3, iter=12, dataset_meta=dict(classes=('a',)), cfg='…', hook_msgs={}),
        optimizer=dict(state={}),
        state_dict={
            'student.a': torch.ones(1),
            'methods.kd.b': torch.ones(2),
            'teacher_scores': torch.ones(2),
        },
    )
    student = student_checkpoint(content)
    assert student['meta'] == dict(epoch=3, iter=12, dataset_meta=dict(classes=('a',)))
    assert student['state_dict'].keys() == {'a'}
    with pytest.raises(ValueError, match=r"^checkpoint: expected keys that begin with 'student.'"):
        student_checkpoint(dict(state_dict={'a': torch.ones(1)}))


class Server(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        self.server.requests.append(self.path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """Serves ``tmp_path/site`` on the loopback; what is downloaded is kept in ``tmp_path/hub``."""
    (tmp_path / 'site').mkdir()
    torch_hub = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / 'hub'))
    monkeypatch.setenv('no_proxy', '*')
    httpd = ThreadingHTTPServer(('127.0.0.1', 0), partial(Server, directory=str(tmp_path / 'site')))
    httpd.requests = []
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()
    torch.hub.set_dir(torch_hub)


def test_a_url_is_downloaded_once_and_two_files_of_one_name_are_two(
    tmp_path: Path, server: ThreadingHTTPServer
) -> None:
    address = f'http://127.0.0.1:{server.server_port}'
    for number in (1, 2):
        (tmp_path / f'site/run{number}').mkdir()
        save(dict(a=torch.tensor(number)), tmp_path / f'site/run{number}/epoch_9.pth')
    urls = [f'{address}/run{number}/epoch_9.pth' for number in (1, 2)]
    assert [load_file(url, 'key').content['a'].item() for url in [*urls, *urls]] == [1, 2, 1, 2]
    assert sorted(server.requests) == ['/run1/epoch_9.pth', '/run2/epoch_9.pth']


def test_a_url_that_is_not_there(server: ThreadingHTTPServer) -> None:
    url = f'http://127.0.0.1:{server.server_port}/none.pth'
    with pytest.raises(
        ValueError, match=rf'^key: expected a checkpoint at {url}, the download failed: .*404'
    ):
        load_file(url, 'key')


def test_a_damaged_download_says_where_it_is_kept(
    tmp_path: Path, server: ThreadingHTTPServer
) -> None:
    (tmp_path / 'site/a.pth').write_bytes(b'PK\x03\x04 half')
    url = f'http://127.0.0.1:{server.server_port}/a.pth'
    with pytest.raises(
        ValueError,
        match=rf'damaged or truncated file {url} \(kept as {tmp_path}/hub/checkpoints/.*a.pth',
    ):
        load_file(url, 'key')


@pytest.mark.parametrize('strategy', ['cos', 'linear'])
def test_a_one_cycle_schedule_names_its_curve_and_is_read(tmp_path: Path, strategy: str) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
    schedule = OneCycleLR(optimizer, eta_max=0.2, total_steps=10, anneal_strategy=strategy)
    torch.save(schedule.state_dict(), tmp_path / 'schedule.pth')
    state = load_file(str(tmp_path / 'schedule.pth'), 'key').content
    assert state['anneal_func'] is schedule.anneal_func
