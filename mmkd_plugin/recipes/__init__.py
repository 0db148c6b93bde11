"""From a student's config and teachers' files to a config that distils."""

from mmkd_plugin.recipes.distill import distill

__all__ = ['distill']
