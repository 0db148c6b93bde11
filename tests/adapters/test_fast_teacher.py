"""The cost of a teacher's forward: what is faster gives the same outputs and changes no weight."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection
from helpers.errors import raises_config_error
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmkd_plugin.adapters import Teacher
from mmkd_plugin.adapters.compat import ClassMap
from mmkd_plugin.adapters.frozen_network import FrozenNetwork
from mmkd_plugin.adapters.fusion import TOLERANCE
from mmkd_plugin.adapters.swaps import weights_on

SIDE = 32
NAMES = ('kd.loss_kd', 'hint.loss_hint')


def with_statistics(model: nn.Module) -> nn.Module:
    """Give BatchNorm the statistics and weights of a trained network, and freeze the whole."""
    generator = torch.Generator().manual_seed(7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.2, 0.2),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model.requires_grad_(False).eval()


class Net(BaseModel):
    """Any forward around two convolutions and two BatchNorms."""

    def __init__(self, run: Callable[['Net', Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.run = run
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.other, self.last = nn.Identity(), nn.Identity()
        with_statistics(self)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Tensor:
        return self.last(self.run(self, inputs))


def usual(net: Net, x: Tensor) -> Tensor:
    return net.bn2(net.conv2(net.bn(net.conv(x)).relu()))


def used_twice(net: Net, x: Tensor) -> Tensor:
    first = net.conv(x)
    return net.bn2(net.conv2(net.bn(first))) + net.other(first)


def two_norms(net: Net, x: Tensor) -> Tensor:
    return net.bn(net.conv(x)) + net.bn2(net.conv(x.flip(3)))


def two_levels(net: Net, x: Tensor) -> Tensor:
    return net.bn(net.conv(x)) + net.bn(net.conv(x.flip(3)))


def norm_of_a_sum(net: Net, x: Tensor) -> Tensor:
    return net.bn2(net.conv2(net.bn(net.conv(x) + 1)))


def shared_norm(net: Net, x: Tensor) -> Tensor:
    return net.bn(net.conv2(net.bn(net.conv(x))))


def hidden_use(net: Net, x: Tensor) -> Tensor:
    first = net.conv(x)
    return net.bn(first) + first.tanh()


def grows(net: Net, x: Tensor) -> Tensor:
    return usual(net, x).view(len(x), -1)[:, :4]


def frozen(model: nn.Module, taps: list[str], scores: bool = False, **keys: Any) -> FrozenNetwork:
    network = FrozenNetwork(model, 'net', 'net', ClassMap(None, 'class_map'), **keys)
    network.request(taps, scores=scores)
    return network


def pair_of(run: Callable[[Net, Tensor], Tensor], *taps: str) -> tuple[FrozenNetwork, ...]:
    """Return a network that may be fast, and the same as it is."""
    fast, plain = (frozen(Net(run), list(taps) or ['last'], fast=f) for f in (True, False))
    for network in (fast, plain):
        network.find_fast_form((3, 8, 8))
    return fast, plain


def assert_equal_within(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() != set()
    for tap, value in expected.items():
        assert (found[tap] - value).abs().max() <= 2 * TOLERANCE * value.abs().max(), tap


@pytest.mark.parametrize(
    ('run', 'taps', 'fused', 'channels_last'),
    [
        (usual, ['last'], 2, True),
        (two_levels, ['last'], 1, True),
        (used_twice, ['last'], 1, True),
        (two_norms, ['last'], 0, True),
        (norm_of_a_sum, ['last'], 1, True),
        (shared_norm, ['last'], 0, True),
        (grows, ['last'], 2, False),
        (usual, ['conv'], 1, True),
        (usual, ['bn:input'], 1, True),
        (usual, ['bn'], 1, True),
        (usual, ['conv', 'bn2'], 0, True),
    ],
)
def test_pairs_that_nothing_reads_between_are_fused(
    run: Any, taps: list[str], fused: int, channels_last: bool
) -> None:
    fast, plain = pair_of(run, *taps)
    form = fast.fast_form
    assert plain.fast_form is None
    used = [pair for pair in form.pairs if not pair.paths & fast.tapped_paths]
    assert (len(used), form.channels_last) == (fused, channels_last)
    assert bool(form.refusal) != channels_last
    images = torch.randn(4, 3, 8, 12)
    assert_equal_within(fast.observe(images).tensors(), plain.observe(images).tensors())
    assert not tiny.differing(plain.model.state_dict(), fast.model.state_dict())
    assert all('forward' not in vars(module) for module in fast.model.modules())


def test_use_of_a_convolution_that_no_hook_sees_is_found_by_the_outputs() -> None:
    fast, plain = pair_of(hidden_use)
    assert not fast.fast_form.pairs
    assert not fast.fast_form.channels_last
    assert 'differ by' in fast.fast_form.refusal
    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(fast.observe(images).feature('last'), plain.observe(images).feature('last'))


def test_network_is_itself_after_an_error_inside() -> None:
    network, _ = pair_of(usual)
    weight = network.model.conv.weight

    def broken(net: Net, x: Tensor) -> Tensor:
        assert net.conv.weight is not weight
        raise KeyError

    network.model.run = broken
    with pytest.raises(KeyError):
        network.observe(torch.zeros(1, 3, 8, 8))
    assert network.model.conv.weight is weight
    assert 'forward' not in vars(network.model.bn)


def test_weights_that_are_loaded_later_are_fused_again() -> None:
    fast, plain = pair_of(usual)
    images = torch.randn(4, 3, 8, 8)
    before = fast.observe(images).feature('last')
    state = {name: value * 1.5 for name, value in plain.model.state_dict().items()}
    for one in (fast, plain):
        one.model.load_state_dict(state)
    found = fast.observe(images).tensors()
    assert_equal_within(found, plain.observe(images).tensors())
    assert not torch.allclose(found['last'], before)


def test_network_that_is_cast_after_its_trial_runs_in_its_new_type() -> None:
    fast, plain = pair_of(usual)
    for one in (fast, plain):
        one.model.double()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    assert_equal_within(fast.observe(images).tensors(), plain.observe(images).tensors())
    assert fast.fast_form.pairs[0].weight.dtype == torch.float64


@pytest.mark.parametrize('change', ['hook', 'parametrization', 'training statistics', 'subclass'])
def test_modules_that_compute_something_else_are_not_fused(change: str) -> None:
    network = frozen(Net(usual), ['last'])
    net = network.model
    if change == 'hook':
        net.conv.register_forward_hook(lambda module, args, output: output * 2)
    elif change == 'parametrization':
        nn.utils.parametrizations.weight_norm(net.conv)
    elif change == 'training statistics':
        net.bn.running_mean = net.bn.running_var = None
    else:
        net.conv = type('Own', (nn.Conv2d,), dict(forward=lambda self, x: x[:, :1] * 2))(3, 4, 3)
        net.bn = nn.BatchNorm2d(1).eval()
        net.conv2 = nn.Conv2d(1, 4, 3).eval()
    network.find_fast_form((3, 8, 8))
    assert len(network.fast_form.pairs) == 1  # the other pair
    images = torch.randn(4, 3, 8, 8)
    found = network.observe(images).tensors()
    network.fast_form = None
    assert_equal_within(found, network.observe(images).tensors())


def test_hook_that_is_registered_later_reads_what_the_plain_network_computes() -> None:
    fast, plain = pair_of(usual)
    seen: list[Tensor] = []

    def double(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        seen.append(output)
        return output * 2

    images = torch.randn(4, 3, 8, 8)
    for network in (fast, plain):
        network.model.conv2.register_forward_hook(double)
    found, expected = (network.observe(images).tensors() for network in (fast, plain))
    assert_equal_within(found, expected)
    assert_equal_within(dict(conv2=seen[0]), dict(conv2=seen[1]))


@pytest.mark.parametrize('late', [False, True])
@pytest.mark.parametrize('name', ['conv2', 'bn2'])
def test_forward_of_a_single_module_stays(name: str, late: bool) -> None:
    network = frozen(Net(usual), ['last'])
    module = network.model.get_submodule(name)
    if late:
        network.find_fast_form((3, 8, 8))
    own = type(module).forward
    module.forward = lambda x: own(module, x) * 3
    if not late:
        network.find_fast_form((3, 8, 8))
    images = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        expected = network.model(images)
    assert_equal_within(network.observe(images).tensors(), dict(last=expected))
    assert 'forward' in vars(module)


def gate(net: Net, x: Tensor) -> Tensor:
    opens = net.conv2(torch.cat([x, x[:, :1]], dim=1)).amax(dim=(1, 2, 3), keepdim=True) > 8
    return net.bn(net.conv(x)) * (1 + opens.float())


def test_layer_that_decides_by_a_comparison_is_no_unused_layer() -> None:
    fast, plain = pair_of(gate)
    assert not fast.fast_form.unused
    images = 30 * torch.randn(4, 3, 8, 8)  # noise of the trial opens no gate
    assert_equal_within(fast.observe(images).tensors(), plain.observe(images).tensors())


def test_offload_keeps_no_copies_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies on the CPU stand for those on a GPU."""
    network = frozen(Net(usual), ['last'], offload=True)
    network.find_fast_form((3, 8, 8))

    def copied(tensor: Tensor, device: torch.device) -> Tensor:
        copy = tensor.detach().clone()
        return nn.Parameter(copy, False) if isinstance(tensor, nn.Parameter) else copy

    monkeypatch.setattr('mmkd_plugin.adapters.swaps.on_device', copied)
    network.placed = lambda device: weights_on(network.model, device)
    network.fast_form.device = torch.device('meta')  # so the first call makes another trial
    images = torch.randn(4, 3, 8, 8)
    before = network.observe(images).feature('last')
    own = set(network.model.state_dict(keep_vars=True).values())
    pairs = network.fast_form.pairs
    assert len(pairs) == 2
    assert all(tensor in own for pair in pairs for tensor in pair.sources)
    state = {name: value * 1.5 for name, value in network.model.state_dict().items()}
    network.model.load_state_dict(state)
    with torch.no_grad():
        expected = network.model(images)
    assert not torch.allclose(before, expected)
    assert_equal_within(network.observe(images).tensors(), dict(last=expected))


def test_outputs_of_a_gpu_are_judged_before_they_are_written() -> None:
    network = frozen(Net(usual), ['last'])
    network._extremes = torch.tensor([[float('nan'), 1.0]]), ('last',), 4  # left by a GPU
    with raises_config_error('net', 'last', 'step 5'):
        network.require_finite_now()
    network.require_finite_now()  # once


FAMILIES: dict[str, Any] = {
    'ResNet': dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
    'MobileNetV2': dict(type='MobileNetV2', widen_factor=0.25),
    'ShuffleNetV2': dict(type='ShuffleNetV2', widen_factor=0.5),
    'RepVGG': dict(type='RepVGG', arch='A0', out_indices=(3,)),
    'RegNet': dict(type='RegNet', arch='regnetx_400mf'),
    'DenseNet': dict(type='DenseNet', arch='121'),
    'VisionTransformer': dict(type='VisionTransformer', arch='deit-t', img_size=32, patch_size=8),
    'ConvNeXt': dict(type='ConvNeXt', arch='atto'),
}
POOLED = ('VisionTransformer', 'ConvNeXt')


@pytest.mark.parametrize('name', FAMILIES)
def test_stock_backbone_gives_the_same_features_and_scores(name: str) -> None:
    config = dict(
        type='mmpretrain.ImageClassifier',
        backbone=FAMILIES[name],
        neck=None
        if name in ('VisionTransformer', 'ConvNeXt')
        else dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=1, init_cfg=None),
        _scope_='mmpretrain',
    )
    whole = tiny.network(dict(config, head=None)).eval()
    with torch.no_grad():
        config['head']['in_channels'] = whole(torch.zeros(1, 3, SIDE, SIDE))[-1].shape[1]
    network = frozen(with_statistics(tiny.network(config)), ['backbone[-1]'], scores=True)
    network.find_fast_form((3, SIDE, SIDE))
    fused = len(network.fast_form.pairs)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.model.modules())
    assert (fused > 0) == (norms > 0)
    if name in ('ResNet', 'MobileNetV2', 'RegNet'):
        assert fused == norms
    images = torch.randn(4, 3, SIDE, SIDE)
    found = network.observe(images).tensors()
    network.fast_form = None
    assert_equal_within(found, network.observe(images).tensors())


@pytest.mark.parametrize('family', ['gfl', 'faster_rcnn', 'detr', 'retinanet'])
def test_stock_detector_teaches_the_same(family: str, tmp_path: Path) -> None:
    hint = dict(type='Hint', pairs=[dict(student='backbone[-1]', teacher='backbone[-1]')])
    model = detection.distiller(
        tmp_path,
        detection.detector(family),
        methods=dict(kd=dict(type='SoftTarget', temperature=2.0), hint=hint),
    ).train()
    [teacher] = model.teachers
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in teacher.model.modules())
    assert len(teacher.fast_form.pairs) == norms > 0
    raw = detection.batch_for(family)

    def losses() -> dict[str, float]:
        torch.manual_seed(0)  # of the samplers
        found = detection.losses_of(model, copy.deepcopy(raw))
        return {name: float(found[name].detach()) for name in found if name in NAMES}

    fast = losses()
    teacher.fast_form = None
    assert fast == pytest.approx(losses(), rel=1e-4)


def test_box_branch_is_left_out_while_boxes_are_not_read(tmp_path: Path) -> None:
    config = detection.detector('gfl')
    scores, boxes = (Teacher(config, detection.checkpoint(tmp_path, config, 1)) for _ in range(2))
    scores.request([], scores=True)
    boxes.request([], boxes=True)
    for network in (scores, boxes):
        network.probe((3, 64, 64))
    names = {
        name for name, module in scores.model.named_modules() if module in scores.fast_form.unused
    }
    branch = {'bbox_head.gfl_reg', *(f'bbox_head.reg_convs.{i}.conv' for i in range(4))}
    assert names & branch == {name for name in branch if name in dict(scores.model.named_modules())}
    assert all('reg' in name for name in names)
    assert not boxes.fast_form.unused
    images = torch.randn(2, 3, 64, 96)
    found, expected = scores.observe(images), boxes.observe(images)
    assert_equal_within(
        {'class scores': found.scores.logits}, {'class scores': expected.scores.logits}
    )
    scores.request([], boxes=True)  # other requests: the branch runs again
    assert_equal_within(
        {'boxes': scores.observe(images).boxes.values}, {'boxes': expected.boxes.values}
    )


# The keys of a teacher's entry


def teacher(folder: Path, **options: Any) -> Teacher:
    config = tiny.classifier()
    path = tiny.checkpoint(folder, config, seed=5)
    built = Teacher(config, path, run_preprocessor=tiny.preprocessor(), **options)
    built.request(['backbone.layer2'], scores=True)
    built.probe((3, 8, 8))
    return built


def test_teacher_is_fast_by_default_and_plain_if_told(tmp_path: Path) -> None:
    fast, plain = teacher(tmp_path), teacher(tmp_path, fast=False)
    images = torch.randn(4, 3, 8, 8)
    assert len(fast.fast_form.pairs) == 7
    assert plain.fast_form is None
    found, expected = fast.observe(images).tensors(), plain.observe(images).tensors()
    assert_equal_within(found, expected)
    assert all(value.is_contiguous() for value in found.values())
    assert not tiny.differing(fast.model.state_dict(), plain.model.state_dict())


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('fast', 1),
        ('offload', 'cpu'),
        ('precision', 'half'),
        ('precision', torch.float16),
        ('compile', 'yes'),
    ],
)
def test_other_value_of_a_key_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    with raises_config_error(f'teachers[0] (t0).{key}', value):
        tiny.distiller(tmp_path, teachers=tiny.teachers(tmp_path, 1, **{key: value}))


@pytest.mark.parametrize(('precision', 'error'), [('bf16', 3e-2), ('fp16', 4e-3)])
def test_precision_is_that_of_the_teacher_alone(
    precision: str, error: float, tmp_path: Path
) -> None:
    images = torch.randn(4, 3, 8, 8)
    plain = teacher(tmp_path, fast=False).observe(images).tensors()
    found = teacher(tmp_path, precision=precision).observe(images).tensors()
    for tap, value in plain.items():
        assert found[tap].dtype == torch.float32
        difference = (found[tap] - value).abs().max() / value.abs().max()
        assert 1e-5 < difference < error, tap


def test_fp32_stays_under_the_autocast_of_the_run(tmp_path: Path) -> None:
    images = torch.randn(4, 3, 8, 8)
    full, own = (teacher(tmp_path, precision='fp32'), teacher(tmp_path))
    expected = full.observe(images).tensors()
    with torch.autocast('cpu', torch.bfloat16):
        found, half = full.observe(images).tensors(), own.observe(images).tensors()
    assert all(torch.equal(found[tap], value) for tap, value in expected.items())
    assert half['class scores'].dtype == torch.bfloat16


def test_modules_between_the_taps_are_compiled_once(tmp_path: Path) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, examples: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    images = torch.randn(4, 3, 8, 8)
    plain = teacher(tmp_path, fast=False).observe(images).tensors()
    compiled = teacher(tmp_path, compile=dict(backend=backend))
    found = compiled.observe(images).tensors()
    assert_equal_within(found, plain)
    built = len(graphs)
    assert built >= 4  # the layers of the backbone, and the head
    assert all(torch.equal(found[tap], v) for tap, v in compiled.observe(images).tensors().items())
    assert len(graphs) == built
    assert all('forward' not in vars(module) for module in compiled.model.modules())


def test_idle_teacher_is_in_host_memory(tmp_path: Path) -> None:
    """A device without data stands for a GPU: what was moved there and back is seen."""
    network = teacher(tmp_path, offload=True)
    before = copy.deepcopy(network.model.state_dict())
    seen = []
    network.model.backbone.layer1.register_forward_hook(
        lambda module, *_: seen.append({p.device.type for p in network.model.parameters()})
    )
    network._require_finite = lambda output: None  # it has no values
    network.fast_form.device = torch.device('meta')  # the trial would need values
    for _ in range(2):
        found = network.observe(torch.zeros(4, 3, 8, 8, device='meta'))
        assert found.feature('backbone.layer2').device.type == 'meta'
        assert {p.device.type for p in network.model.parameters()} == {'cpu'}
        assert not tiny.differing(before, network.model.state_dict())
    assert seen == [{'meta'}] * 2
    assert network.observe(torch.zeros(4, 3, 8, 8)).scores.logits.isfinite().all()


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_teacher_whose_outputs_are_not_finite_is_named_with_its_step(
    value: float, tmp_path: Path
) -> None:
    model = tiny.distiller(tmp_path).train()
    tiny.losses_of(model)
    MessageHub.get_current_instance().update_info('iter', 41)
    broken = model.teachers[1]
    broken.model.head.fc.weight.data.fill_(value)
    with raises_config_error('teachers[1] (t1)', 'class scores', 'step 42', fix='precision'):
        tiny.losses_of(model)
