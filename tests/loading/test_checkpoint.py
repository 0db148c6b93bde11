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
from helpers.errors import raises_config_error
from mmengine.logging import HistoryBuffer
from torch import nn

from mmkd_plugin.loading.checkpoint import load_file, load_weights


def save(content: Any, path: Path, **options: Any) -> str:
    torch.save(content, path, **options)
    return str(path)


def test_content_and_hash_of_a_file_are_returned(tmp_path: Path) -> None:
    path = save(dict(state_dict=dict(a=torch.arange(3))), tmp_path / 'a.pth')
    loaded = load_file(path, 'key')
    assert loaded.content['state_dict']['a'].tolist() == [0, 1, 2]
    assert loaded.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_runners_checkpoint_is_read(tmp_path: Path) -> None:
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
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    tmp_path: Path, new_format: bool
) -> None:
    trace = tmp_path / 'trace'
    path = save(
        dict(state_dict=Runs(os.system, f'touch {trace}')),
        tmp_path / 'a.pth',
        _use_new_zipfile_serialization=new_format,
    )
    with raises_config_error('key', path, 'would run code', 'posix.system', fix='torch.save'):
        load_file(path, 'key')
    assert not trace.exists()


@pytest.mark.parametrize('protocol', [2, 4])
def test_a_bare_pickle_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    trace, path = tmp_path / 'trace', tmp_path / 'a.pth'
    path.write_bytes(pickle.dumps(Runs(os.system, f'touch {trace}'), protocol))
    with raises_config_error('key', str(path)):
        load_file(str(path), 'key')
    assert not trace.exists()


@pytest.mark.parametrize('new_format', [True, False])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, new_format: bool) -> None:
    path = tmp_path / 'a.pth'
    save(dict(a=torch.zeros(500)), path, _use_new_zipfile_serialization=new_format)
    whole = path.read_bytes()
    for length in (0, 1, 3, 10, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with raises_config_error('key', str(path), fix='Copy or download the file again.'):
            load_file(str(path), 'key')


@pytest.mark.parametrize(
    'text',
    ['hello', '<html>404</html>', 'version https://git-lfs.github.com/spec/v1\noid sha256:0'],
)
def test_a_text_file_is_refused_without_a_word_of_code(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'a.pth'
    path.write_text(text)
    with raises_config_error('key', str(path), 'a file that torch.save wrote', fix='again'):
        load_file(str(path), 'key')


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / 'none.pth', tmp_path):
        with raises_config_error('key', str(path), 'path or URL', fix='No file is there.'):
            load_file(str(path), 'key')


def test_a_file_with_a_list_is_refused(tmp_path: Path) -> None:
    path = save([1], tmp_path / 'a.pth')
    with raises_config_error('key', path, 'must hold a dict, not a list'):
        load_file(path, 'key')


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
            == hashlib.sha256(Path(path).read_bytes()).hexdigest()
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
def test_class_names_are_read_if_the_checkpoint_states_them(
    meta: object, classes: object, tmp_path: Path
) -> None:
    net = nn.Linear(2, 3)
    path = save(dict(meta=meta, state_dict=net.state_dict()), tmp_path / 'a.pth')
    assert load_weights(net, path, 'key').classes == classes


def test_the_versions_of_modules_are_passed_on(tmp_path: Path) -> None:
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
    path = save(state, tmp_path / 'a.pth')
    keys = (
        '1 key missing (bias), 1 key unexpected (other), '
        '1 key of another shape (weight: [5, 2] in the file, [3, 2] in the model)'
    )
    with raises_config_error('key', path, keys, fix='the checkpoint of this model'):
        load_weights(nn.Linear(2, 3), path, 'key')


def test_of_many_keys_three_are_shown(tmp_path: Path) -> None:
    path = save({f'key{index}': torch.zeros(1) for index in range(5)}, tmp_path / 'a.pth')
    with raises_config_error(
        'key', path, '2 keys missing (weight, bias)', '(key0, key1, key2, … 2 more)'
    ):
        load_weights(nn.Linear(2, 3), path, 'key')


def test_an_error_of_the_model_while_loading_is_not_lost(tmp_path: Path) -> None:
    class Refusing(nn.Linear):
        def _load_from_state_dict(self, *args: Any) -> None:
            raise RuntimeError('not today')

    path = save(nn.Linear(2, 3).state_dict(), tmp_path / 'a.pth')
    with raises_config_error('key', path, 'not today'):
        load_weights(Refusing(2, 3), path, 'key')


@pytest.mark.parametrize(
    ('content', 'keys'),
    [
        ({}, 'none'),
        (dict(state_dict={}), "'state_dict'"),
        (dict(epoch=3, iter=4), "'epoch', 'iter'"),
        (dict(state_dict=dict(a=1)), "'state_dict'"),
        (dict(state_dict=3), "'state_dict'"),
    ],
)
def test_a_file_without_a_dict_of_tensors_is_refused(
    tmp_path: Path, content: Any, keys: str
) -> None:
    path = save(content, tmp_path / 'a.pth')
    with raises_config_error('key', path, 'a dict of tensors', fix=f'Its keys are {keys}.'):
        load_weights(nn.Linear(2, 3), path, 'key')


@pytest.mark.parametrize(
    ('prefix', 'command'),
    [
        ('student.', '{path} student.pth'),
        ('peers.a.network.', '{path} student.pth'),
        ('peer_a.', '{path} student.pth'),
    ],
)
def test_a_runs_checkpoint_in_place_of_a_students_names_the_command_that_exports(
    tmp_path: Path, prefix: str, command: str
) -> None:
    state = {f'{prefix}{name}': value for name, value in nn.Linear(2, 3).state_dict().items()}
    path = save(state, tmp_path / 'a.pth')
    fix = f'python tools/export_student.py {command.format(path=path)}'
    with raises_config_error('key', path, '2 keys missing', fix=fix):
        load_weights(nn.Linear(2, 3), path, 'key')


def test_a_checkpoint_of_several_peers_names_one_in_the_command(tmp_path: Path) -> None:
    state = {f'peers.{peer}.network.weight': torch.zeros(1) for peer in ('deep', 'flat')}
    path = save(state, tmp_path / 'a.pth')
    with raises_config_error('key', path, fix=f'{path} student.pth --network deep'):
        load_weights(nn.Linear(2, 3), path, 'key')


class Server(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        self.server.requests.append(self.path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A server of ``tmp_path/site`` on the loopback; downloads go to ``tmp_path/hub``."""
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


def test_a_url_is_downloaded_once_and_files_of_one_name_stay_apart(
    tmp_path: Path, server: ThreadingHTTPServer
) -> None:
    address = f'http://127.0.0.1:{server.server_port}'
    for number in (1, 2):
        (tmp_path / f'site/run{number}').mkdir()
        save(dict(a=torch.tensor(number)), tmp_path / f'site/run{number}/epoch_9.pth')
    urls = [f'{address}/run{number}/epoch_9.pth' for number in (1, 2)]
    assert [load_file(url, 'key').content['a'].item() for url in [*urls, *urls]] == [1, 2, 1, 2]
    assert sorted(server.requests) == ['/run1/epoch_9.pth', '/run2/epoch_9.pth']


def test_a_url_without_a_file_is_refused(server: ThreadingHTTPServer) -> None:
    url = f'http://127.0.0.1:{server.server_port}/none.pth'
    with raises_config_error('key', url, 'could not be downloaded', '404', fix='URL'):
        load_file(url, 'key')


def test_a_damaged_download_is_refused_with_the_path_of_its_copy(
    tmp_path: Path, server: ThreadingHTTPServer
) -> None:
    (tmp_path / 'site/a.pth').write_bytes(b'PK\x03\x04 half')
    url = f'http://127.0.0.1:{server.server_port}/a.pth'
    with raises_config_error(
        'key', url, 'damaged or truncated', fix=f'Delete its copy {tmp_path}/hub/checkpoints/'
    ):
        load_file(url, 'key')
