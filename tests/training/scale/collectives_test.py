"""The reader of compiled programs, on texts written by hand."""

import pytest

from iblm_jax.training.scale import collectives

ALL = 'channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}'


def program(*lines, other=''):
  """A program text whose entry computation holds the lines."""
  body = '\n'.join(f'  {line}' for line in lines)
  return (
      f'HloModule m\n\n{other}\n'
      f'ENTRY %main.1_spmd (p: f32[8]) -> f32[8] {{\n{body}\n}}\n'
  )


def only(line, num_devices=8):
  found = collectives.operations(program(line), num_devices)
  assert len(found) == 1, found
  return found[0]


@pytest.mark.parametrize(
    'line, kind, size, received',
    [
        # [2, 3] on each of 8 devices, 48 numbers together.
        (f'%g = f32[16,3]{{1,0}} all-gather(%p), {ALL}, dimensions={{0}}',
         'all-gather', 192, 168),
        (f'ROOT %r = bf16[100]{{0}} all-reduce(%p), {ALL}, to_apply=%add',
         'all-reduce', 200, 350),
        # 5 numbers are left of 40.
        (f'%s = f32[5]{{0}} reduce-scatter(%p), {ALL}, to_apply=%add',
         'reduce-scatter', 160, 140),
        (f'%a = s8[8,10]{{1,0:T(8,128)(4,1)}} all-to-all(%p), {ALL}',
         'all-to-all', 80, 70),
        (f'%a = (f32[1,5]{{1,0}}, f32[1,5]{{1,0}}) all-to-all(%p, %q), {ALL}',
         'all-to-all', 40, 35),
        ('%c = f16[7]{0} collective-permute(%p), channel_id=1, '
         'source_target_pairs={{0,1},{1,0}}',
         'collective-permute', 14, 14),
        # Several arrays at once, as XLA's combiner writes them.
        (f'%t = (f32[4]{{0}}, f32[], /*index=2*/pred[6]{{0}}) '
         f'all-reduce(%p, %q, %r), {ALL}, to_apply=%add',
         'all-reduce', 26, 44),
    ],
    ids=lambda value: value.split(' ')[0] if isinstance(value, str) else None,
)
def test_kinds(line, kind, size, received):
  operation = only(line)
  assert (operation.kind, operation.bytes) == (kind, size)
  assert operation.runs == 1
  total, = collectives.totals(program(line), 8)
  assert total == collectives.Collective(kind, 1, size, received, size)


@pytest.mark.parametrize(
    'start, done, kind, size',
    [
        (f'(f32[2,3]{{1,0}}, f32[16,3]{{1,0}}) all-gather-start(%p), {ALL}',
         'f32[16,3]{1,0} all-gather-done(%x)', 'all-gather', 192),
        # Two arrays: the operands and then the results are tuples.
        (f'((f32[2]{{0}}, bf16[3]{{0}}), (f32[16]{{0}}, bf16[24]{{0}})) '
         f'all-gather-start(%p, %q), {ALL}',
         '(f32[16]{0}, bf16[24]{0}) all-gather-done(%x)', 'all-gather', 112),
        (f'f32[8]{{0:T(128)S(1)}} all-reduce-start(%p), {ALL}, to_apply=%add',
         'f32[8]{0} all-reduce-done(%x)', 'all-reduce', 32),
        (f'(f32[8]{{0}}, f32[2]{{0}}) all-reduce-start(%p, %q), {ALL}',
         '(f32[8]{0}, f32[2]{0}) all-reduce-done(%x)', 'all-reduce', 40),
        # One byte for each of two arrays, less than the contexts.
        ('(u8[1]{0}, u8[1]{0}, u32[]{:S(2)}, u32[]{:S(2)}) '
         'collective-permute-start(%p), source_target_pairs={{0,1},{1,0}}',
         'u8[1]{0} collective-permute-done(%x)', 'collective-permute', 1),
        (f'(f32[16]{{0}}, f32[2]{{0}}) reduce-scatter-start(%p), {ALL}',
         'f32[2]{0} reduce-scatter-done(%x)', 'reduce-scatter', 64),
    ],
)
def test_asynchronous_forms_count_once(start, done, kind, size):
  found = collectives.operations(program(f'%x = {start}', f'%y = {done}'), 8)
  assert [(op.kind, op.bytes) for op in found] == [(kind, size)]


def test_wrapped_asynchronous_call_counts_once():
  text = program(
      '%s = ((f32[16]{0}), f32[2]{0}, s32[]) async-start(%p), calls=%wrapped',
      '%u = ((f32[16]{0}), f32[2]{0}, s32[]) async-update(%s), calls=%wrapped',
      '%d = f32[2]{0} async-done(%u), calls=%wrapped',
      other='%wrapped (q: f32[16]) -> f32[2] {\n'
      f'  ROOT %r = f32[2]{{0}} reduce-scatter(%q), {ALL}, to_apply=%add\n}}\n',
  )
  operation, = collectives.operations(text, 8)
  assert (operation.bytes, operation.runs) == (64, 1)


@pytest.mark.parametrize(
    'groups, size',
    [
        ('{{0,1},{2,3},{4,5},{6,7}}', 2),
        ('{{0,1,2,3},{4,5,6,7}}', 4),
        ('{}', 8),
        ('[2,4]<=[8]', 4),
        ('[4,2]<=[2,4]T(1,0)', 2),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 4),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", 8),
        # Devices in an order of their own.
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=([2,2,2]T(1,0,2)) {'axis_0'}",
         2),
        # Half of an axis: it is split into 2 x 2, and the last part taken.
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1':(2)2}", 2),
    ],
)
def test_groups(groups, size):
  operation = only(
      f'%g = f32[80]{{0}} all-gather(%p), replica_groups={groups}, '
      "dimensions={0}, metadata={op_name=\"jit(f)/{'axis_0'}\"}"
  )
  assert operation.group == size
  received = collectives.totals(
      program(f'%g = f32[80]{{0}} all-gather(%p), replica_groups={groups}'), 8
  )[0].received
  assert received == 320 * (size - 1) // size


def test_no_groups_are_all_devices():
  assert only('%g = f32[4] all-gather(%p), channel_id=1', 4).group == 4


@pytest.mark.parametrize(
    'groups',
    ['{{0},{1}}', '[8,1]<=[8]', "mesh['axis_0'=1,'axis_1'=8] {'axis_0'}"],
)
def test_groups_of_one_move_nothing(groups):
  text = program(f'%g = f32[80] all-reduce(%p), replica_groups={groups}')
  assert collectives.totals(text, 8) == []


def test_unknown_groups_are_refused():
  with pytest.raises(ValueError, match='cannot read replica_groups=some'):
    only('%g = f32[80] all-reduce(%p), replica_groups=some[4], to_apply=%add')


@pytest.mark.parametrize(
    'dtype, size',
    [('pred', 8), ('s4', 4), ('f8e4m3fn', 8), ('u16', 16), ('bf16', 16),
     ('f64', 64), ('c64', 64), ('c128', 128), ('token', 0)],
)
def test_sizes_of_dtypes(dtype, size):
  assert only(f'%g = {dtype}[2,4]{{1,0}} all-reduce(%p), {ALL}').bytes == size



def reduce(name='r'):
  return f'  %{name} = f32[8]{{0}} all-reduce(%x), {ALL}, to_apply=%add\n'


def loop(
    name,
    inside,
    *,
    limit=5,
    step=1,
    compare='compare(%i, %limit), direction=LT',
):
  """Condition and body of a loop whose counter is element 0."""
  condition = (
      f'%{name}_cond (p: (s32[], f32[8])) -> pred[] {{\n'
      '  %p = (s32[], f32[8]{0}) parameter(0)\n'
      f'  %limit = s32[]{{:T(128)}} constant({limit})\n'
      '  %i = s32[] get-tuple-element(%p), index=0\n'
      f'  ROOT %lt = pred[] {compare}\n}}\n'
  )
  body = (
      f'%{name}_body (p: (s32[], f32[8])) -> (s32[], f32[8]) {{\n'
      '  %p = (s32[], f32[8]{0}) parameter(0)\n'
      '  %i = s32[] get-tuple-element(%p), index=0\n'
      '  %x = f32[8]{0} get-tuple-element(%p), index=1\n'
      f'  %step = s32[] constant({step})\n'
      f'  %next = s32[] add(%i, %step)\n{inside}'
      '  ROOT %t = (s32[], f32[8]{0}) tuple(%next, %x)\n}\n'
  )
  return condition + body


def run_loop(name, noted=None, start=0):
  note = (
      f', backend_config={{"known_trip_count":{{"n":"{noted}"}}}}'
      if noted is not None
      else ''
  )
  return (
      f'  %zero_{name} = s32[] constant({start})\n'
      f'  %copy_{name} = s32[] copy(%zero_{name})\n'
      f'  %init_{name} = (s32[], f32[8]{{0}}) tuple(%copy_{name}, %x)\n'
      f'  %while_{name} = (s32[], f32[8]{{0}}) while(%init_{name}),'
      f' condition=%{name}_cond, body=%{name}_body{note}\n'
  )


def count(other, *lines):
  totals = collectives.totals(program(*lines, other=other), 8)
  return totals[0].count if totals else 0


def test_metadata_that_begins_with_a_brace_does_not_end_a_computation():
  kernel = (
      '  %kernel = f32[8]{0} custom-call(%x), metadata={block=512,\n'
      '}}, metadata={op_name="attention"}\n'
  )
  assert count(loop('a', kernel + reduce()), run_loop('a')) == 5


def test_noted_trip_count_wins():
  other = loop('a', reduce(), limit=5)
  assert count(other, run_loop('a', noted=3)) == 3
  assert count(other, run_loop('a', noted=0)) == 0


@pytest.mark.parametrize(
    'start, limit, step, rounds',
    [(0, 5, 1, 5), (0, 4, 2, 2), (0, 5, 2, 3), (3, 5, 1, 2), (7, 5, 1, 0)],
)
def test_rounds_from_start_limit_and_step(start, limit, step, rounds):
  other = loop('a', reduce(), limit=limit, step=step)
  assert count(other, run_loop('a', start=start)) == rounds


def test_comparison_the_other_way_round():
  compare = 'compare(%limit, %i), direction=GT'
  assert count(loop('a', reduce(), compare=compare), run_loop('a')) == 5


@pytest.mark.parametrize('constant_inside', [False, True])
def test_comparison_in_a_fusion(constant_inside):
  if constant_inside:
    operands, limit = '%i', '  %b = s32[] constant(6)\n'
  else:
    operands, limit = '%i, %limit', '  %b = s32[] parameter(1)\n'
  other = (
      '%fused_compare (a: s32[]) -> pred[] {\n'
      f'  %a = s32[] parameter(0)\n{limit}'
      '  ROOT %c = pred[] compare(%a, %b), direction=LT\n}\n'
  ) + loop(
      'a',
      reduce(),
      limit=6,
      compare=f'fusion({operands}), kind=kLoop, calls=%fused_compare',
  )
  assert count(other, run_loop('a')) == 6


def test_nested_loops_multiply():
  inner = loop('b', reduce() + reduce('r2'), limit=4)
  outer = loop('a', run_loop('b') + reduce('r3'), limit=3)
  assert count(inner + outer, run_loop('a')) == 3 * (4 * 2 + 1)
  # The total of bytes grows with it, the largest does not.
  total, = collectives.totals(program(run_loop('a'), other=inner + outer), 8)
  assert (total.bytes, total.largest) == (27 * 32, 32)
  assert total.received == 27 * 56


UNKNOWN = [
    dict(compare='compare(%i, %limit), direction=NE'),
    dict(compare='compare(%i, %i), direction=LT'),
    dict(compare='and(%i, %limit)'),
    dict(step=0),
    dict(step=-1),
    dict(limit='%x'),
]


@pytest.mark.parametrize('kwargs', UNKNOWN, ids=str)
def test_unknown_loop_matters_only_with_a_collective(kwargs):
  with pytest.raises(ValueError, match='cannot tell how often .*all-reduce'):
    count(loop('a', reduce(), **kwargs), run_loop('a'))
  line = f'%r = f32[8]{{0}} all-reduce(%p), {ALL}'
  assert count(loop('a', '', **kwargs), run_loop('a'), line) == 1
  # Nor in a known loop around it.
  outer = loop('b', run_loop('a') + reduce())
  assert count(loop('a', '', **kwargs) + outer, run_loop('b')) == 5


def test_known_loop_in_an_unknown_one_is_unknown():
  other = loop('a', reduce()) + loop('b', run_loop('a'), step=0)
  with pytest.raises(ValueError, match='cannot tell how often'):
    count(other, run_loop('b'))


def test_branches_all_count():
  other = ''.join(
      f'%{name} (x: f32[{n}]) -> f32[{n}] {{\n'
      f'  ROOT %r = f32[{n}] all-reduce(%x), {ALL}, to_apply=%add\n}}\n'
      for name, n in (('yes', 8), ('no', 16), ('c', 1), ('d', 2))
  )
  text = program(
      '%a = f32[8] conditional(%k, %p, %q), branch_computations={%yes, %no}',
      '%b = f32[8] conditional(%k, %p, %q), true_computation=%c, '
      'false_computation=%d',
      other=other,
  )
  sizes = [op.bytes for op in collectives.operations(text, 8)]
  assert sorted(sizes) == [4, 8, 32, 64]



def gather(channel):
  return (
      f'f32[16]{{0}} all-gather(%x), channel_id={channel},'
      ' replica_groups=[1,8]<=[8]'
  )


def fusion(name, channel, chain=''):
  return (
      f'%{name} (x: f32[2]) -> f32[16] {{\n'
      f'  ROOT %g = {gather(channel)}{chain}\n}}\n'
  )


def test_pieces_of_one_operation_count_as_often_as_it_starts():
  """Start and end are in the entry, overlapped work in a loop between."""
  other = (
      fusion('start', 7)
      + fusion('middle', 7)
      + fusion('end', 7)
      + loop('a', '  %f = f32[16] fusion(%x), kind=kLoop, calls=%middle\n')
  )
  lines = (
      '%s = f32[16] fusion(%p), kind=kCustom, calls=%start',
      run_loop('a'),
      '%e = f32[16] fusion(%p), kind=kCustom, calls=%end',
  )
  assert count(other, *lines) == 1
  # Another channel, another operation.
  other = other.replace('channel_id=7', 'channel_id=8', 1)
  assert count(other, *lines) == 2


def test_chains_tell_operations_of_one_channel_apart():
  other = ''.join(
      fusion(f'f{k}', 1, f', frontend_attributes={{chain_id="{chain}"}}')
      for k, chain in enumerate((4, 4, 5))
  )
  lines = [f'%s{k} = f32[16] fusion(%p), calls=%f{k}' for k in range(3)]
  assert count(other, *lines) == 2


def test_one_channel_outside_fusions_is_many_operations():
  """As under shard_map, which gives every operation the same channel."""
  line = gather(1)
  assert count('', f'%a = {line}', f'%b = {line}') == 2


def test_what_is_never_called_does_not_run():
  assert count(fusion('unused', 1), '%p = f32[8] parameter(0)') == 0


@pytest.mark.parametrize('text', ['', 'HloModule m\n', fusion('f', 1)])
def test_text_without_an_entry_is_refused(text):
  with pytest.raises(ValueError, match='holds no ENTRY computation'):
    collectives.operations(text, 8)
