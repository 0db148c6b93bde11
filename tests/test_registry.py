"""The registries in fresh processes: in this one, everything has been imported already."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def ask(code: str) -> str:
    prelude = 'import warnings; warnings.simplefilter("ignore")\n'
    result = subprocess.run(
        [sys.executable, '-c', prelude + code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize('host', ['mmpretrain', 'mmdet'])
def test_registry_prefix_is_enough_in_a_host_and_nothing_enters_its_registries(host: str) -> None:
    answer = ask(
        'import sys\n'
        'from mmengine.registry import DATASETS, HOOKS, MODELS, DefaultScope\n'
        f'from {host} import registry as host\n'
        f'DefaultScope.get_instance("run", scope_name="{host}")\n'
        'assert not any(name.startswith("mmkd_plugin") for name in sys.modules)\n'
        'with MODELS.switch_scope_and_registry(None) as registry:\n'
        f'    assert registry.scope == "{host}"\n'
        '    print(registry.get("mmkd_plugin.Distiller").__name__)\n'
        '    print(registry.get("mmkd_plugin.CifarResNet").__name__)\n'
        'with HOOKS.switch_scope_and_registry(None) as registry:\n'
        '    print(registry.get("mmkd_plugin.SaveStudent").__name__)\n'
        'with DATASETS.switch_scope_and_registry(None) as registry:\n'
        '    print(registry.get("mmkd_plugin.Digits").__name__)\n'
        'for registry in (MODELS, HOOKS, DATASETS, host.MODELS, host.HOOKS, host.DATASETS):\n'
        '    modules = [found.__module__ for found in registry.module_dict.values()]\n'
        '    assert not [name for name in modules if name.startswith("mmkd_plugin")]\n'
        'import mmkd_plugin.registry as own\n'
        'registries = own.MODELS, own.HOOKS, own.DATASETS, own.LOOPS\n'
        'assert {registry.scope for registry in registries} == {"mmkd_plugin"}\n'
    )
    assert answer.split() == ['Distiller', 'CifarResNet', 'SaveStudent', 'Digits']


def test_registry_custom_imports_work_too() -> None:
    assert (
        ask(
            'import sys\n'
            'from mmengine import Config\n'
            'Config.fromstring("custom_imports = dict(imports=\'mmkd_plugin\')", ".py")\n'
            'assert "mmkd_plugin" in sys.modules\n'
            'print(any(name.startswith(("mmpretrain", "mmdet")) for name in sys.modules))\n'
        )
        == 'False'  # importing the package is light
    )
