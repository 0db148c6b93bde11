"""Child registries of MMEngine's. Nothing of ours is registered in a host's scope or in the root.

``type='mmkd_plugin.Name'`` in any OpenMMLab project's config makes MMEngine import this file, and the first look-up
imports the rooms listed as locations.
"""

from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import LOOPS as ROOT_LOOPS
from mmengine.registry import MODEL_WRAPPERS as ROOT_MODEL_WRAPPERS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import Registry

SCOPE = 'mmkd_plugin'

MODELS = Registry(
    'model',
    parent=ROOT_MODELS,
    scope=SCOPE,
    locations=[
        'mmkd_plugin.backbones',
        'mmkd_plugin.connectors',
        'mmkd_plugin.distillers',
        'mmkd_plugin.losses',
        'mmkd_plugin.methods',
    ],
)
DATASETS = Registry('dataset', parent=ROOT_DATASETS, scope=SCOPE, locations=['mmkd_plugin.datasets'])
HOOKS = Registry('hook', parent=ROOT_HOOKS, scope=SCOPE, locations=['mmkd_plugin.hooks'])
LOOPS = Registry('loop', parent=ROOT_LOOPS, scope=SCOPE, locations=['mmkd_plugin.distillers'])
MODEL_WRAPPERS = Registry(
    'model_wrapper', parent=ROOT_MODEL_WRAPPERS, scope=SCOPE, locations=['mmkd_plugin.distillers']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=ROOT_OPTIM_WRAPPER_CONSTRUCTORS,
    scope=SCOPE,
    locations=['mmkd_plugin.distillers'],
)
