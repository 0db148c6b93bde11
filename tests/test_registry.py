"""Registries, each seen from a fresh process: in this one everything has been imported already."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def output_of(code: str) -> str:
    prelude = 'import warnings; warnings.simplefilter("ignore")\n'
    result = subprocess.run(
        [sys.executable, '-c', prelude + code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


_PREFIXED = """
import sys
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS, MODELS, DefaultScope
import {host}.registry as host
DefaultScope.get_instance("run", scope_name="{host}")
assert not any(name.startswith("mmkd_plugin") for name in sys.modules)
with MODELS.switch_scope_and_registry(None) as registry:
    assert registry.scope == "{host}"
    for name in ("Distiller", "CifarResNet"):
        print(registry.get(f"mmkd_plugin.{{name}}").__name__)
with HOOKS.switch_scope_and_registry(None) as registry:
    print(registry.get("mmkd_plugin.SaveStudent").__name__)
with DATASETS.switch_scope_and_registry(None) as registry:
    print(registry.get("mmkd_plugin.Digits").__name__)
    print(registry.get("mmkd_plugin.ReplayedDataset").__name__)
with DATA_SAMPLERS.switch_scope_and_registry(None) as registry:
    print(registry.get("mmkd_plugin.ReplaySampler").__name__)
for registry in (MODELS, HOOKS, DATASETS, host.MODELS, host.HOOKS, host.DATASETS):
    kinds = registry.module_dict.items()
    ours = [name for name, kind in kinds if kind.__module__.startswith("mmkd_plugin")]
    assert not ours, ours
import mmkd_plugin.registry as own
assert {{r.scope for r in (own.MODELS, own.HOOKS, own.DATASETS, own.LOOPS)}} == {{"mmkd_plugin"}}
"""


@pytest.mark.parametrize('host', ['mmpretrain', 'mmdet'])
def test_registry_of_a_framework_with_our_prefix_finds_classes_and_receives_none(
    host: str,
) -> None:
    found = output_of(_PREFIXED.format(host=host))
    assert found.split() == [
        *('Distiller', 'CifarResNet', 'SaveStudent', 'Digits'),
        *('ReplayedDataset', 'ReplaySampler'),
    ]


def test_custom_imports_of_the_package_import_no_framework() -> None:
    code = (
        'import sys\n'
        'from mmengine import Config\n'
        'Config.fromstring("custom_imports = dict(imports=\'mmkd_plugin\')", ".py")\n'
        'assert "mmkd_plugin" in sys.modules\n'
        'print(any(name.startswith(("mmpretrain", "mmdet")) for name in sys.modules))\n'
    )
    assert output_of(code) == 'False'
