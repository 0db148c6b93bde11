"""The models that the Runner sees."""

from mmkd_plugin.distillers.distiller import Distiller
from mmkd_plugin.distillers.mutual_distiller import MutualDistiller
from mmkd_plugin.distillers.paraphraser_trainer import ParaphraserTrainer
from mmkd_plugin.distillers.peer_data_parallel import PeerDataParallel
from mmkd_plugin.distillers.peer_loops import PeerTestLoop, PeerValLoop
from mmkd_plugin.distillers.peer_optim_wrappers import PeerOptimWrappers

__all__ = [
    'Distiller',
    'MutualDistiller',
    'ParaphraserTrainer',
    'PeerDataParallel',
    'PeerOptimWrappers',
    'PeerTestLoop',
    'PeerValLoop',
]
