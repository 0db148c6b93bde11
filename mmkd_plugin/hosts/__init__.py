"""Adapters to the frameworks' models: where class scores are, and how to run one at least cost as a teacher."""

from mmkd_plugin.hosts.base import Host
from mmkd_plugin.hosts.classifier import ClassifierHost
from mmkd_plugin.hosts.find import host_of

__all__ = ['ClassifierHost', 'Host', 'host_of']
