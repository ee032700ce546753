"""Package metadata; tool settings are in pyproject.toml."""

import pathlib
import re

import setuptools

_HERE = pathlib.Path(__file__).parent
_VERSION = re.search(
    r"^__version__ = '(.+)'$",
    (_HERE / 'iblm_jax/__init__.py').read_text(encoding='utf-8'),
    re.MULTILINE,
)[1]

_PLOT = ['matplotlib>=3.8']
_CERTIFY = ['constriction>=0.4']
_HF = [
    'datasets>=3.0',
    'safetensors>=0.4',
    'sentencepiece>=0.2',
    'tokenizers>=0.20',
]
_LM_EVAL = ['lm_eval>=0.4.13', 'safetensors>=0.4', 'tokenizers>=0.20']
# A published model, whole: its file, its tokenizer, figures of its layers.
_GGUF = ['gguf>=0.17', 'safetensors>=0.4', 'tokenizers>=0.20', *_PLOT]
# What others compute with the same files; CPU wheels of torch are enough.
_PARITY = ['peft>=0.18', 'torch>=2.6', 'transformers>=5.0', *_LM_EVAL]
_TEST = [
    'chex>=0.1.90',
    'equinox>=0.13',
    'gguf>=0.17',
    'hypothesis>=6.100',
    'pytest>=8.2',
    'pytest-xdist>=3.6',
    'safetensors>=0.4',
    'tokenizers>=0.20',
    *_PLOT,
    *_CERTIFY,
]

setuptools.setup(
    name='iblm-jax',
    version=_VERSION,
    description=(
        'Train, measure, build and certify language models with the'
        ' information bottleneck, in JAX.'
    ),
    long_description=(_HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.11',
    packages=[
        *setuptools.find_packages(include=['iblm_jax', 'iblm_jax.*']),
        'iblm_jax.configs',
        'iblm_jax.launch',
    ],
    package_dir={'iblm_jax.configs': 'configs', 'iblm_jax.launch': 'launch'},
    package_data={
        'iblm_jax': ['py.typed'],
        'iblm_jax.launch': ['*.sh', '*.sbatch'],
    },
    install_requires=[
        'absl-py>=2.1',
        'einops>=0.8',
        'etils[epath]>=1.7',
        'flax>=0.12',
        'grain>=0.2.18',
        'jax>=0.10',
        'ml_collections>=1.0',
        'numpy>=1.26',
        'optax>=0.2.8',
        'orbax-checkpoint>=0.12,<1',
        'scipy>=1.14',
    ],
    extras_require={
        'cuda12': ['jax[cuda12]>=0.10'],
        'cuda13': ['jax[cuda13]>=0.10'],
        'tpu': ['jax[tpu]>=0.10'],
        # The TPU compiler alone (about 700 MB), for ahead-of-time compilation
        # on a machine without a TPU; the version is the one jax[tpu] names.
        'aot': ['jax[tpu]>=0.10'],
        # Workdirs and data on gs:// without TensorFlow.
        'gcs': ['etils[epath-gcs]>=1.7'],
        'tensorboard': ['tensorboardX>=2.6'],
        'plot': _PLOT,
        'hf': _HF,
        'gguf': _GGUF,
        'lm_eval': _LM_EVAL,
        'certify': _CERTIFY,
        'test': _TEST,
        'parity': _PARITY,
        'dev': [
            *_TEST,
            'build>=1.2',
            'codespell>=2.3',
            'pre-commit>=4.0',
            'pyrefly>=1.4',
            'ruff>=0.14',
        ],
        'docs': ['furo>=2024.8', 'myst-parser>=4.0', 'sphinx>=8.0'],
    },
    entry_points={
        'console_scripts': [
            'iblm-train = iblm_jax.main:run',
            'iblm-report = iblm_jax.report:run',
            'iblm-certify = iblm_jax.certify:run',
            'iblm-generate = iblm_jax.generate:run',
            'iblm-prepare = iblm_jax.data.prepare:run',
            'iblm-export = iblm_jax.export:run',
            'iblm-probe = iblm_jax.probe:run',
            'iblm-curriculum = iblm_jax.curriculum:run',
            'iblm-experiment = iblm_jax.experiment:run',
        ],
    },
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
)
