_base_ = '_networks.py'

question = 'Do two networks learn more from each other than each by itself?'
about = """
Data: DistortedMNIST, one fixed view of 2,500 training images, 1,250 for validation, 1,250 for the
test. Two ResNet-8 with 19,810 parameters each and different random weights are trained from scratch
in one run, on the same batches, for 12 epochs. `longer` trains each by itself for 24 epochs, about
the time of IE-DML in alternating order. The metric is the mean of the two networks; a and b are the
networks, ensemble is the mean of their probabilities.

The methods choose among three candidates by the mean's validation accuracy, on a seed that is not
reported: DML its weight, IE-DML its weights of inheritance/of exploration. Both orders of a method
have the choice of the alternating one. Weight decay is 5e-3 throughout.
"""
metric = 'mean/accuracy/top1'
columns = dict(a='a/accuracy/top1', b='b/accuracy/top1', ensemble='ensemble/accuracy/top1')
baseline = 'alone'
seeds = list(range(10))
tune_seeds = [100]

config = '../../../configs/_base_/distorted_mnist.py'
_epochs = 12
_longer = 24
options = {
    'train_cfg': dict(max_epochs=_epochs, val_interval=_epochs),
    'val_cfg': dict(type='mmkd_plugin.PeerValLoop'),
    'test_cfg': dict(type='mmkd_plugin.PeerTestLoop'),
    'optim_wrapper.constructor': 'mmkd_plugin.PeerOptimWrappers',
    'default_hooks.logger.interval': 1000,
}


_two = [dict(name=name, model=_base_._resnet8) for name in ('a', 'b')]
_maps = dict(student='backbone.layer3', teacher='backbone.layer3')
_dml = dict(type='SoftTarget', temperature=1.0)
_ie = dict(type='IEKD', pairs=[_maps])


def _mutual(order: str, **methods: dict) -> dict:
    return {
        'model': dict(type='mmkd_plugin.MutualDistiller', peers=_two, methods=methods, order=order)
    }


def _pair(inherit: float, explore: float) -> dict:
    return dict(inherit_weight=inherit, explore_weight=explore)


_alone = _mutual('simultaneous', dml=dict(_dml, loss_weight=0.0))
arms = {
    'alike/alone': dict(about='each by itself', options=_alone),
    'alike/longer': dict(
        about=f'each by itself, {_longer} epochs',
        options={**_alone, 'train_cfg': dict(max_epochs=_longer, val_interval=_longer)},
    ),
    'alike/dml': dict(
        about="DML: each other's probabilities, one after the other",
        options=_mutual('alternating', dml=_dml),
        grid={'model.methods.dml.loss_weight': [0.1, 0.3, 1.0]},
    ),
    'alike/dml_simultaneous': dict(
        about="DML: each other's probabilities, at once",
        options=_mutual('simultaneous', dml=_dml),
        choice_of='alike/dml',
    ),
    'alike/ie_dml': dict(
        about="IE-DML: each other's factors, one after the other",
        options=_mutual('alternating', ie=_ie),
        grid={
            'model.methods.ie': {
                '5/5': _pair(5.0, 5.0),
                '15/5': _pair(15.0, 5.0),
                '50/50': _pair(50.0, 50.0),
            }
        },
    ),
    'alike/ie_dml_simultaneous': dict(
        about="IE-DML: each other's factors, at once",
        options=_mutual('simultaneous', ie=_ie),
        choice_of='alike/ie_dml',
    ),
}
