"""Old names of modules, which work through 0.2 with a DeprecationWarning."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings

# Where the modules of 0.1 are now, below `iblm_jax`.
MOVED = {
    'bounds.wealth': 'bounds.betting',
    'data.markov': 'data.sources.markov',
    'data.multiplication': 'data.sources.multiplication',
    'data.needle': 'data.sources.needle',
    'data.packing': 'data.text.packing',
    'data.pages': 'data.sources.pages',
    'data.shard_documents': 'data.sources.shard_documents',
    'data.shard_files': 'data.shards.files',
    'data.shard_writer': 'data.shards.writer',
    'data.tokenising': 'data.text.tokenising',
    'data.tokenizers': 'data.text.tokenizers',
    'data.topics': 'data.sources.topics',
    'data.wordlist': 'data.sources.words',
    'experiments.certificates_figures': 'experiments.certificates.figures',
    'experiments.certificates_run': 'experiments.certificates.rows',
    'experiments.certification': 'certification.pipeline',
    'experiments.conflict_figure': 'experiments.conflict.figure',
    'experiments.conflict_metrics': 'experiments.conflict.metrics',
    'experiments.conflict_models': 'experiments.conflict.models',
    'experiments.conflict_run': 'experiments.conflict.rows',
    'experiments.conflict_settings': 'experiments.conflict.settings',
    'experiments.conflict_tables': 'experiments.conflict.tables',
    'experiments.conflict_tasks': 'experiments.conflict.tasks',
    'experiments.conflict_training': 'experiments.conflict.training',
    'experiments.curricula': 'training.curriculum',
    'experiments.document_losses': 'certification.document_losses',
    'experiments.gpt2_file': 'models.pretrained.gpt2_file',
    'experiments.memory_language': 'experiments.memory.language',
    'experiments.memory_methods': 'experiments.memory.methods',
    'experiments.memory_run': 'experiments.memory.rows',
    'experiments.memory_tables': 'experiments.memory.tables',
    'experiments.probe_subject': 'probing.subject',
    'experiments.probing': 'probing.decoder_probe',
    'experiments.profiles': 'analysis.profiles',
    'experiments.program': 'experiments._harness.program',
    'experiments.quantisation': 'certification.quantisation',
    'experiments.results': 'experiments._harness.results',
    'experiments.rows': 'experiments._harness.rows',
    'experiments.runs': 'experiments._harness.jobs',
    'experiments.side_by_side': 'experiments._harness.jobs',
    'experiments.spectrum_figures': 'experiments.spectrum.figures',
    'experiments.spectrum_measure': 'analysis.layer_spectra',
    'experiments.spectrum_rows': 'experiments.spectrum.rows',
    'experiments.spectrum_subject': 'analysis.subject',
    'experiments.statistics': 'reports.statistics',
    'experiments.variants': 'experiments._harness.variants',
    'experiments.verification': 'certification.verification',
    'experiments.workdirs': 'experiments._harness.program',
    'information.series': 'analysis',
    'models.attention': 'models.nn.attention',
    'models.blocks': 'models.nn.blocks',
    'models.boxed': 'models.nn.partition_specs',
    'models.decoding': 'models.generation.decoding',
    'models.embeddings': 'models.nn.embeddings',
    'models.ends': 'models.nn.embedding_head',
    'models.gpt2_weights': 'models.pretrained.gpt2_weights',
    'models.kv_cache': 'models.generation.kv_cache',
    'models.layers': 'models.nn.layers',
    'models.masked_mixing': 'models.nn.masked_mixing',
    'models.memories': 'models.memory.layout',
    'models.memory_config': 'models.memory.config',
    'models.memory_cost': 'models.memory.cost',
    'models.memory_decoding': 'models.generation.memory_decoding',
    'models.memory_windows': 'models.memory.windows',
    'models.mixer_config': 'models.config',
    'models.open_window': 'models.generation.incremental',
    'models.oracle_memory': 'models.memory.oracle',
    'models.recurrent_memory': 'models.memory.recurrent',
    'models.splash': 'models.nn.splash',
    'models.stack': 'models.nn.stack',
    'objectives.attribution': 'analysis.attribution',
    'objectives.retrieval': 'analysis.retrieval',
    'sublora.draws': 'sublora.prng',
    'sublora.plan': 'sublora.layout',
    'training.collectives': 'training.scale.collectives',
    'training.errors': 'errors',
    'training.compile_report': 'training.scale.compile_report',
    'training.distributed': 'training.scale.distributed',
    'training.hardware': 'training.scale.hardware',
    'training.hlo': 'training.scale.hlo',
    'training.mesh': 'training.scale.mesh',
    'training.topology': 'training.scale.topology',
}


class _Finder(importlib.abc.MetaPathFinder):
  """Finds a module of 0.1 under its new name."""

  def find_spec(self, fullname, path=None, target=None):
    """Answers for names of the table, which no file has."""
    del path, target
    package, _, name = fullname.partition('.')
    if package != __package__ or name not in MOVED:
      return None
    return importlib.machinery.ModuleSpec(fullname, _Loader())


class _Loader(importlib.abc.Loader):
  """Gives the module of the new name, as it is."""

  def create_module(self, spec):
    """Imports it, with a warning where the old name is imported."""
    new = f'{__package__}.{MOVED[spec.name.partition(".")[2]]}'
    warnings.warn(
        f'{spec.name} is now {new}; the old name will go with version 0.3.',
        DeprecationWarning,
        stacklevel=2,
    )
    module = importlib.import_module(new)
    self._spec = module.__spec__
    return module

  def exec_module(self, module):
    """Undoes the one attribute that the import system has set."""
    module.__spec__ = self._spec


def install() -> None:
  """Makes the old names importable."""
  if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
    sys.meta_path.append(_Finder())
