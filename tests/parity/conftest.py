"""Models are made here or installed: nothing is fetched from a hub."""

import os

os.environ |= {'HF_HUB_OFFLINE': '1', 'TRANSFORMERS_OFFLINE': '1'}
