"""Settings of the documentation, built by `sphinx-build -W docs OUT`."""

import iblm_jax

project = 'iblm_jax'
author = 'The iblm_jax authors'
release = version = iblm_jax.__version__
extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.mathjax',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
]
exclude_patterns = ['_build', 'figures', 'results/*.json']
html_theme = 'furo'
html_title = f'iblm_jax {release}'
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
autodoc_default_options = {
    'members': True,
    'member-order': 'bysource',
    'show-inheritance': False,
}
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True
autodoc_class_signature = 'mixed'
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
suppress_warnings = ['config.cache']
