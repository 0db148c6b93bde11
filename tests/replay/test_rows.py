"""Outputs of networks as rows of bytes."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from helpers import detection as small
from helpers.errors import raises_config_error

from mmkd_plugin.adapters import TappedModel
from mmkd_plugin.boxes import BoxOutputs, Levels
from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.outputs import ClassScores, NetworkOutput, score_rows
from mmkd_plugin.replay import RowFormat, describe, described, refuse_shared
from mmkd_plugin.replay.dense import ABSENT, DenseCodec, suggested_locations
from mmkd_plugin.replay.logits import LogitCodec
from mmkd_plugin.replay.sizes import usual_rows

LEVELS: Levels = ((8, 6, 2), (4, 3, 2))
WIDER: Levels = ((9, 8, 2), (5, 4, 2))


def checks(count: int) -> Any:
    return np.arange(count, dtype=np.uint32) + 4_000_000_000


def size(levels: Levels) -> int:
    return sum(rows * columns * anchors for rows, columns, anchors in levels)


def dense(
    count: int = 3,
    levels: Levels = LEVELS,
    activation: str = 'sigmoid',
    valid: bool = False,
    boxes: int = 0,
    offset: float = -3.0,
    seed: int = 0,
) -> NetworkOutput:
    generator = torch.Generator().manual_seed(seed)
    background = activation == 'softmax'
    logits = torch.randn(count, size(levels), 5 + background, generator=generator) * 2
    logits += offset
    if background:
        logits[..., -1] += 8
    mask = None
    if valid:  # the second image ends earlier, at the right and at the bottom
        grids = []
        for rows, columns, anchors in levels:
            grid = torch.ones(count, rows, columns, anchors, dtype=torch.bool)
            grid[1, rows // 2 + 1 :] = False
            grid[1, :, columns // 2 + 1 :] = False
            grids.append(grid.flatten(1))
        mask = torch.cat(grids, dim=1)
    scores = ClassScores(
        logits, activation, background, levels, valid=mask, strides=((8.0, 8.0), (16.0, 16.0))
    )
    form = None
    if boxes:
        shape = (count, size(levels), 4) + ((boxes,) if boxes > 1 else ())
        values = torch.randn(shape, generator=generator)
        kind = 'distribution' if boxes > 1 else 'distance'
        form = BoxOutputs(values, kind, '', ((4.0, 4.0), (8.0, 8.0)), levels, mask)
    return NetworkOutput(scores, {}, form)


# Classifiers


@pytest.mark.parametrize('count', [0, 1, 7])
def test_row_of_a_classifier_returns_scores_features_and_checksums(count: int) -> None:
    output = NetworkOutput(
        ClassScores.of_images(torch.randn(count, 10), 'sigmoid'),
        {'neck': torch.randn(count, 64), 'backbone.layer3': torch.randn(count, 8, 4, 4)},
    )
    row = RowFormat.of(output, dtype='float32')
    data = row.pack(output, checks(count))
    assert data.shape == (count, row.row_bytes) and data.dtype == np.uint8
    assert row.parts == {
        'checksum': 4,
        'scores': 40,
        'features.neck': 256,
        'features.backbone.layer3': 512,
    }
    found, checksums = row.unpack(data)
    assert found.scores is not None and output.scores is not None
    assert found.scores.activation == 'sigmoid' and found.scores.per_image
    assert torch.equal(found.scores.logits, output.scores.logits)
    assert list(found.features) == list(output.features)
    assert all(torch.equal(found.features[tap], output.features[tap]) for tap in output.features)
    assert checksums.tolist() == checks(count).tolist()
    assert row.exact and row.truncation.largest == 0 and row.truncation.images == count


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
@pytest.mark.parametrize('dtype', ['float16', 'float32'])
def test_row_of_top_scores_differs_by_what_the_truncation_states(
    dtype: str, temperature: float
) -> None:
    logits = torch.randn(16, 300, generator=torch.Generator().manual_seed(1)) * 3
    output = NetworkOutput(ClassScores.of_images(logits))
    row = RowFormat.of(output, dtype=dtype, top=250)
    found = row.unpack(row.pack(output, checks(16)))[0].scores
    assert found is not None
    difference = (found.logits[:, 0].softmax(1) - logits.softmax(1)).abs()
    assert 0 < difference.max() < 0.01
    assert row.truncation.largest == pytest.approx(float(difference.max()), rel=1e-5)
    assert row.truncation.mean == pytest.approx(float(difference.mean()), rel=1e-4)
    softened = (found.logits[:, 0] / temperature).softmax(1) - (logits / temperature).softmax(1)
    assert softened.abs().max() < 0.01


def test_truncation_states_the_difference_of_features_in_half_precision() -> None:
    feature = torch.rand(4, 3, 2, 2) * 5
    output = NetworkOutput(features={'neck[0]': feature, 'zeros': torch.zeros(4, 3)})
    row = RowFormat.of(output)
    found = row.unpack(row.pack(output, checks(4)))[0].features['neck[0]']
    expected = float((found - feature).abs().max() / feature.abs().max())
    assert 0 < expected < 1e-3
    assert row.truncation.features == pytest.approx(expected, rel=1e-5)
    assert (
        str(row.truncation) == f'4 images: features differ by at most {expected:.2g} of the largest'
    )


def test_row_of_half_precision_outputs_is_read_in_float32() -> None:
    output = NetworkOutput(
        ClassScores.of_images(torch.randn(3, 10).half()), {'neck': torch.randn(3, 4).bfloat16()}
    )
    row = RowFormat.of(output, dtype='float32')
    found, _ = row.unpack(row.pack(output, checks(3)))
    assert found.scores is not None and output.scores is not None
    assert torch.equal(found.scores.logits, output.scores.logits.float())
    assert torch.equal(found.features['neck'], output.features['neck'].float())


def test_row_of_features_of_another_shape_is_an_error() -> None:
    row = RowFormat(features={'neck': (4,)})
    with raises_config_error('replay.features.neck', (5,), '(4,)'):
        row.pack(NetworkOutput(features={'neck': torch.zeros(2, 5)}), checks(2))
    with raises_config_error('replay.features.neck'):
        row.pack(NetworkOutput(), checks(2))


def test_row_of_features_too_large_for_float16_is_an_error() -> None:
    output = NetworkOutput(features={'neck': torch.tensor([[1e6]])})
    with raises_config_error('neck', 1e6, fix="dtype='float32'"):
        RowFormat.of(output).pack(output, checks(1))


def test_row_of_scores_of_another_number_is_an_error() -> None:
    row = RowFormat(LogitCodec(10))
    with raises_config_error('replay', fix=None):
        row.pack(NetworkOutput(ClassScores.of_images(torch.zeros(2, 11))), checks(2))
    with raises_config_error('replay.scores'):
        row.pack(NetworkOutput(), checks(2))


@pytest.mark.parametrize('shape', [(2, 23), (2, 25), (24,)])
def test_bytes_of_another_length_are_a_value_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match='24'):
        RowFormat(LogitCodec(10)).unpack(np.zeros(shape, np.uint8))


# Dense detectors


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
@pytest.mark.parametrize('valid', [False, True])
@pytest.mark.parametrize('boxes', [0, 1, 7])
@pytest.mark.parametrize('seed', range(3))
def test_row_of_a_dense_head_is_exact_where_it_teaches(
    activation: str, valid: bool, boxes: int, seed: int
) -> None:
    output = dense(activation=activation, valid=valid, boxes=boxes, seed=seed)
    row = RowFormat.of(output, dtype='float32', locations=size(LEVELS), background=0.05)
    found, checksums = row.unpack(row.pack(output, checks(3)))
    assert found.scores is not None and output.scores is not None
    assert checksums.tolist() == checks(3).tolist()
    mask = output.scores.valid
    kept = output.scores.confidence() >= 0.05
    kept = kept if mask is None else kept & mask
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(found.scores.logits[kept], output.scores.logits[kept])
    assert (found.scores.confidence()[~kept] < 1e-20).all()
    same = ('activation', 'background', 'levels', 'strides')
    assert [getattr(found.scores, name) for name in same] == [
        getattr(output.scores, name) for name in same
    ]
    assert (found.scores.valid is None) is (mask is None)
    assert mask is None or torch.equal(found.scores.valid, mask)  # type: ignore[arg-type]
    if output.boxes is not None:
        assert found.boxes is not None
        assert torch.equal(found.boxes.values[kept], output.boxes.values[kept])
        assert found.boxes.layout == output.boxes.layout
    assert row.truncation.locations == kept.sum() and row.truncation.locations_cut == 0


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
def test_foreground_weighting_of_rows_is_that_of_the_outputs_bit_for_bit(activation: str) -> None:
    teacher = dense(activation=activation, valid=True)
    student = dense(activation=activation, valid=True, seed=9)
    row = RowFormat.of(teacher, dtype='float32', locations=size(LEVELS), background=0.05)
    stored = row.unpack(row.pack(teacher, checks(3)))[0]
    weigh = LocationWeights(background=0.05)
    expected, found = (score_rows(student, [one], weigh) for one in (teacher, stored))
    for name in ('student', 'teachers', 'images', 'weights', 'confidence'):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_dense_rows_of_several_teachers_keep_the_locations_of_all() -> None:
    student, *teachers = (dense(seed=seed, offset=-5.0) for seed in range(3))
    scores = [one.scores for one in teachers if one.scores is not None]
    priority = torch.stack([own.confidence() for own in scores]).amax(dim=0)
    assert all(bool(((own.confidence() < 0.05) & (priority >= 0.05)).any()) for own in scores)
    stored = []
    for one in teachers:
        row = RowFormat.of(one, dtype='float32', locations=size(LEVELS))
        stored.append(row.unpack(row.pack(one, checks(3), priority))[0])
    weigh = LocationWeights(background=0.05)
    expected, found = (score_rows(student, every, weigh) for every in (teachers, stored))
    assert torch.equal(found.teachers, expected.teachers)
    assert torch.equal(found.weights, expected.weights)  # type: ignore[arg-type]


def test_rows_of_several_teachers_keep_the_same_locations_if_there_are_too_many() -> None:
    teachers = [dense(seed=seed, valid=True, offset=0.0) for seed in range(2)]
    scores = [one.scores for one in teachers if one.scores is not None]
    priority = torch.stack([own.confidence() for own in scores]).amax(dim=0)
    kept = []
    for one in teachers:
        row = RowFormat.of(one, dtype='float32', locations=4)
        found = row.unpack(row.pack(one, checks(3), priority))[0].scores
        assert found is not None and found.valid is not None
        kept.append((found.logits != ABSENT).any(dim=2))
        assert kept[-1].sum(dim=1).tolist() == [4] * 3
        assert not (kept[-1] & ~found.valid).any()
    assert torch.equal(*kept)


@pytest.mark.parametrize('family', ['gfl', 'retinanet', 'yolox'])
def test_row_of_a_real_detector_teaches_as_the_detector_does(family: str) -> None:
    tapped = TappedModel(small.network(small.detector(family)).eval(), 'teacher')
    tapped.request(['neck[0]'], scores=True, boxes=True)
    raw = small.batch_for(family)
    images = torch.zeros(2, 3, 96, 96)
    for image, one in zip(images, raw['inputs'], strict=True):
        image[:, : one.shape[1]] = one / 255
    output = tapped.observe(images, data_samples=raw['data_samples'])
    assert output.scores is not None and output.boxes is not None
    background = float(
        output.scores.detach().confidence().median()
    )  # untrained: half of the locations
    row = RowFormat.of(output, 'float32', locations=999, background=background)
    assert output.scores.logits.requires_grad  # a network that is not frozen is stored as well
    found = row.unpack(row.pack(output, checks(2)))[0]
    assert found.scores is not None and found.boxes is not None
    assert str(found.scores) == str(output.scores) and str(found.boxes) == str(output.boxes)
    assert found.boxes.layout == output.boxes.layout
    assert torch.equal(found.features['neck[0]'], output.features['neck[0]'])
    kept = output.scores.confidence() >= background
    kept = kept if output.scores.valid is None else kept & output.scores.valid
    assert torch.equal(found.scores.logits[kept], output.scores.logits[kept])
    assert torch.equal(found.boxes.values[kept], output.boxes.values[kept])
    weigh = LocationWeights(background=background)
    student = output.detach()
    expected, stored = (score_rows(student, [one], weigh) for one in (output, found))
    assert torch.equal(stored.teachers, expected.teachers)
    assert torch.equal(stored.weights, expected.weights)  # type: ignore[arg-type]


def test_dense_row_in_another_batch_keeps_level_row_and_column() -> None:
    output = dense(valid=True, boxes=7)
    row = RowFormat.of(output, dtype='float32', locations=size(LEVELS))
    data = row.pack(output, checks(3))
    expected = row.unpack(data)[0]
    found = row.unpack(data, levels=WIDER)[0]
    assert found.scores is not None and expected.scores is not None
    assert found.boxes is not None and expected.boxes is not None
    assert found.scores.levels == found.boxes.levels == WIDER
    back = found.scores.on_levels(LEVELS)
    assert torch.equal(back.logits, expected.scores.logits)
    assert torch.equal(back.valid, expected.scores.valid)  # type: ignore[arg-type]
    assert torch.equal(found.boxes.on_levels(LEVELS).values, expected.boxes.values)
    # No location was added outside of the old levels, and the mask ends with the images.
    assert found.scores.valid.sum() == expected.scores.valid.sum()  # type: ignore[union-attr]
    assert (found.scores.confidence() >= 0.05).sum() == (back.confidence() >= 0.05).sum()
    smaller: Levels = ((5, 4, 2), (2, 2, 2))
    cut = row.unpack(data, levels=smaller)[0].scores
    assert cut is not None
    assert torch.equal(cut.logits, expected.scores.on_levels(smaller).logits)


def test_dense_rows_of_different_batches_share_the_largest_levels() -> None:
    small, large = dense(2), dense(1, ((7, 8, 2), (4, 4, 2)), seed=4)
    row = RowFormat.of(small, dtype='float32', locations=200)
    data = np.concatenate([row.pack(small, checks(2)), row.pack(large, checks(1))])
    found = row.unpack(data)[0].scores
    assert found is not None and found.levels == ((8, 8, 2), (4, 4, 2))
    for numbers, output in ((slice(0, 2), small), (slice(2, 3), large)):
        scores = output.scores
        assert scores is not None
        kept = scores.confidence() >= 0.05
        own = ClassScores(found.logits[numbers], 'sigmoid', levels=found.levels)
        back = own.on_levels(scores.levels).logits
        assert torch.equal(back[kept], scores.logits[kept])


@pytest.mark.parametrize('capacity', [1, 10, 40])
def test_dense_row_that_is_full_keeps_the_most_confident_and_counts_the_rest(
    capacity: int,
) -> None:
    output = dense(offset=0.0)
    assert output.scores is not None
    confidence = output.scores.confidence()
    row = RowFormat.of(output, dtype='float32', locations=capacity)
    found = row.unpack(row.pack(output, checks(3)))[0].scores
    assert found is not None
    for own, stored in zip(confidence, found.confidence(), strict=True):
        best = own.sort(descending=True).values[:capacity]
        assert torch.equal(stored.sort(descending=True).values[:capacity], best)
    wanted = confidence >= 0.05
    lost = row.truncation
    assert lost.locations == wanted.sum() and lost.images_cut == 3
    assert lost.locations_cut == int(wanted.sum()) - 3 * capacity
    best_weight = confidence.sort(dim=1, descending=True).values[:, :capacity].sum()
    weight = (confidence * wanted).sum()
    assert lost.weight_cut / lost.weight == pytest.approx(float(1 - best_weight / weight), rel=1e-4)
    assert f'{lost.locations_cut:,} of {lost.locations:,} did not fit into 3 images' in str(lost)


@pytest.mark.parametrize('boxes', [0, 1, 7])
def test_dense_row_without_any_location_is_background(boxes: int) -> None:
    output = dense(offset=-40.0, boxes=boxes)
    row = RowFormat.of(output, locations=8)
    found = row.unpack(row.pack(output, checks(3)))[0].scores
    assert found is not None and float(found.confidence().max()) < 1e-20


def test_dense_row_in_float16_states_the_difference() -> None:
    output = dense()
    row = RowFormat.of(output, locations=200)
    found = row.unpack(row.pack(output, checks(3)))[0].scores
    assert found is not None and output.scores is not None
    kept = output.scores.confidence() >= 0.05
    difference = found.logits[kept].sigmoid() - output.scores.logits[kept].sigmoid()
    assert row.truncation.largest == pytest.approx(float(difference.abs().max()), rel=1e-5)
    assert 0 < row.truncation.largest < 1e-3


@pytest.mark.parametrize('found', [0, 1, -0.1, None, True])
def test_dense_row_without_a_background_threshold_is_an_error(found: Any) -> None:
    with raises_config_error('background', found):
        RowFormat.of(dense(), background=found)


@pytest.mark.parametrize('found', [0, 2.5])
def test_dense_row_of_no_locations_is_an_error(found: Any) -> None:
    with raises_config_error('locations', found):
        RowFormat.of(dense(), locations=found)


def test_dense_softmax_without_background_class_is_an_error() -> None:
    with raises_config_error('replay', fix='without replay'):
        DenseCodec(LogitCodec(5, 'softmax'), (1,), 8)


def test_dense_row_of_another_number_of_levels_is_an_error() -> None:
    row = RowFormat.of(dense(), locations=8)
    with raises_config_error('replay', ((8, 6, 2),)):
        row.pack(dense(levels=((8, 6, 2),)), checks(3))


@pytest.mark.parametrize('seed', range(10))
def test_dense_random_bytes_give_a_value_error(seed: int) -> None:
    row = RowFormat.of(dense(), locations=8)
    data = np.random.default_rng(seed).integers(0, 256, (2, row.row_bytes), dtype=np.uint8)
    with pytest.raises(ValueError, match='of 8 locations'):
        row.unpack(data, levels=LEVELS)


@pytest.mark.parametrize(('counts', 'expected'), [([], 32), ([1], 32), ([64], 96), ([65], 128)])
def test_suggested_locations_leave_half_as_many_free(counts: list[int], expected: int) -> None:
    assert suggested_locations(counts) == expected


# Outputs that depend on the student


@pytest.mark.parametrize(
    ('extra', 'words'),
    [(dict(rois=(torch.zeros(3, 5),)), 'regions'), (dict(queries=3), 'queries')],
)
def test_scores_at_locations_of_the_student_are_refused(extra: Any, words: str) -> None:
    output = NetworkOutput(ClassScores(torch.zeros(1, 3, 5), **extra))
    for function in (refuse_shared, RowFormat.of):
        with raises_config_error('replay', str(output.scores), words, fix='features'):
            function(output)
    with raises_config_error('replay'):
        RowFormat(LogitCodec(5)).pack(output, checks(1))


# Descriptions


@pytest.mark.parametrize('name', list(usual_rows()))
def test_description_of_a_format_is_json_and_gives_it_back(name: str) -> None:
    row = usual_rows()[name]
    assert described(json.loads(json.dumps(describe(row)))) == row


def test_description_of_a_dense_head_gives_equal_outputs() -> None:
    output = dense(boxes=7, valid=True)
    row = RowFormat.of(output, locations=99)
    data = row.pack(output, checks(3))
    again = described(json.loads(json.dumps(describe(row))))
    one, other = (form.unpack(data)[0] for form in (row, again))
    assert one.boxes is not None and other.boxes is not None
    assert str(one.scores) == str(other.scores)
    assert torch.equal(one.boxes.values, other.boxes.values)
    assert one.boxes.layout == other.boxes.layout


def _changed(**changes: Any) -> dict[str, Any]:
    return {**describe(RowFormat.of(dense(boxes=7))), **changes}


@pytest.mark.parametrize(
    'saved',
    [
        None,
        [],
        'x',
        {},
        _changed(scores=dict(kind='other')),
        _changed(scores=dict(kind='image', columns=10, colour='red')),
        _changed(scores=dict(kind='image', columns='10', activation='softmax', top=3)),
        _changed(features=dict(neck=[-4])),
        _changed(features=dict(neck=['4'])),
        _changed(features=[4]),
        _changed(strides=[1, 2]),
        _changed(dtype='object'),
        _changed(boxes=dict(kind='distance')),
    ],
)
def test_description_of_another_form_is_an_error(saved: Any) -> None:
    from mmkd_plugin.errors import ConfigError

    with pytest.raises(ConfigError):
        described(saved)
