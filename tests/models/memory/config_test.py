import dataclasses

import pytest
import tiny_models

STACKS = dict(
    tied=tiny_models.transformer(tie_embeddings=True),
    untied=tiny_models.transformer(),
    learned=tiny_models.transformer(positions='learned'),
    short=tiny_models.transformer(
        tie_embeddings=True, positions='learned', max_length=3
    ),
    mixer=tiny_models.mixer(7),
    short_mixer=tiny_models.mixer(6),
    windowed=tiny_models.transformer(window=2),
)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(family='mixer'), "family must be 'memory' here, got 'mixer'"),
        (dict(kind='serial'), "kind must be one of .* got 'serial'"),
        (dict(layout='free'), "layout must be one of .* got 'free'"),
        (dict(empty='ones'), "empty must be one of .* got 'ones'"),
        (dict(position='first'), "position must be one of .* got 'first'"),
        (dict(num_chunks=1), 'num_chunks must be an integer >= 2, got 1'),
        (dict(chunk_length=0), 'chunk_length must be an integer >= 1, got 0'),
        (dict(compression=3), 'compression=3 and width=8'),
        (
            dict(encoder=dataclasses.replace(STACKS['tied'], vocab_size=7)),
            'encoder.vocab_size must be that of the decoder, 11, got 7',
        ),
        (
            dict(encoder=STACKS['untied']),
            'encoder.tie_embeddings must be True',
        ),
        (
            dict(encoder=STACKS['short']),
            'encoder.max_length must be at least 4, got 3',
        ),
        (
            dict(decoder=STACKS['learned'], layout='variable'),
            "decoder.positions must be 'rotary' or 'none' .* got 'learned'",
        ),
        (
            dict(decoder=STACKS['short_mixer']),
            'decoder.mixer.length must be at least 7, .* got 6',
        ),
        (
            dict(decoder=STACKS['mixer'], layout='variable'),
            "layout must be 'fixed' for a mixer, .* got 'variable'",
        ),
        (
            dict(layout='variable', empty='learned'),
            "empty must be 'masked' with the layout 'variable', .* 'learned'",
        ),
        (
            dict(layout='variable', decoder=STACKS['windowed']),
            "decoder.window must be None with the layout 'variable'.* got 2",
        ),
        (
            dict(kind='oracle_embedding'),
            'decoder.width must be more than .* 8, got 8',
        ),
        (
            dict(kind='oracle_embedding', compression=3),
            'compression=3 and width=8',
        ),
        (
            dict(
                kind='oracle_embedding', compression=2, decoder=STACKS['tied']
            ),
            'decoder.tie_embeddings must be False',
        ),
        (
            dict(
                kind='oracle_token',
                encoder=dataclasses.replace(STACKS['short'], max_length=11),
            ),
            'encoder.max_length must be at least 12, got 11',
        ),
    ],
)
def test_config_refuses(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(tiny_models.memory(), **change)
