"""Writes two tasks for lm-evaluation-harness from help pages of tldr.

  python examples/harness_tasks.py PAGES.jsonl.gz FOLDER

tldr_bits: bits per byte of whole pages. tldr_summary: which of four first lines
of pages is the one of a command, by the likelihood of each.
"""

import gzip
import json
import pathlib
import re
import sys

FIRST_LINES = re.compile(r'# (.+)\n\n> (.+)\n')
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
{rest}
metric_list: [{metrics}]
metadata: {{version: 1}}
"""


def write(folder, name, rows, kind, rest, metrics):
  file = folder / f'{name}.jsonl'
  file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  metrics = ', '.join(f'{{metric: {metric}}}' for metric in metrics)
  (folder / f'{name}.yaml').write_text(TASK.format(**locals()))


def questions(texts):
  """Asks of each page what its command does, among four pages' answers."""
  pages = [FIRST_LINES.match(text) for text in texts]
  pages = [page.groups() for page in pages if page]
  for n, (name, _) in enumerate(pages):
    others = [pages[(n + k * len(pages) // 4) % len(pages)] for k in range(4)]
    label = n % 4
    others[0], others[label] = others[label], others[0]
    yield {'prompt': f'# {name}\n\n>', 'label': label,
           'answers': [f' {answer}' for _, answer in others]}


def main(pages, folder):
  folder = pathlib.Path(folder).resolve()
  folder.mkdir(parents=True, exist_ok=True)
  with gzip.open(pages, 'rt', encoding='utf-8') as lines:
    texts = [json.loads(line)['text'] for line in lines]
  write(folder, 'tldr_bits', [{'text': text} for text in texts],
        'loglikelihood_rolling', 'doc_to_text: ""\ndoc_to_target: "{{text}}"',
        ['bits_per_byte', 'byte_perplexity'])
  write(folder, 'tldr_summary', questions(texts), 'multiple_choice',
        'doc_to_text: "{{prompt}}"\ntarget_delimiter: ""\n'
        'doc_to_choice: answers\ndoc_to_target: label',
        ['acc', 'acc_bytes'])


if __name__ == '__main__':
  main(*sys.argv[1:])
