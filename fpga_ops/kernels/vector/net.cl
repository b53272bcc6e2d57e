// The whole network in one launch. The generator defines before this file: LAYERS, FIELDS (longs per layer record),
// L_<FIELD> (where they lie), ARRAYS (inputs and outputs as parameters: float in0..., uchar out0...), ARGUMENTS and VALUES
// (what a task gets of these, and `not_finite`, where to say that an input holds NaN or an infinity), CASES (one call per
// kind of layer and shape of convolution), REDIRECT (sends outputs to their argument), PROFILE with TRACE and TRACED (a
// parameter more), and IN_PLACE: the device works in the caller's memory. There a task gets `addresses`, a row of ROW
// longs per image, of which UNPACK(row) makes that image's in0 ..., out0 ... and not_finite; FINISH(call, row) makes the
// scores of an image that is done (head.cl).
//
// A layer is cut into tasks, and workers (one work-group each) take them, layer after layer. Before its first task of a
// layer a worker waits until all tasks of the layers it depends on are done. It waits only for tasks that a running
// worker holds, so the network ends even if just one worker runs.

// One work-item per work-group, never merged with others into vectors: the code is vectorised by hand.
#if INTEL
#define SINGLE __attribute__((reqd_work_group_size(1, 1, 1))) __attribute__((intel_vec_len_hint(1)))
#else
#define SINGLE __attribute__((reqd_work_group_size(1, 1, 1)))
#endif

// Which part of its image a task is. Where weights are heavy, tasks of one group of panels follow each other (also over
// the images), elsewhere those of one strip.
INLINE int part_of(G const long* layer, const int task, const int images)
{
  return layer[L_HEAVY] ? task / images : task % (int)layer[L_TASKS];
}

INLINE int group_of(G const long* layer, const int part)
{
  return layer[L_HEAVY] ? part / (int)layer[L_STRIPS] : part % (int)layer[L_GROUPS];
}

INLINE int strip_of(G const long* layer, const int part)
{
  return layer[L_HEAVY] ? part % (int)layer[L_STRIPS] : part / (int)layer[L_GROUPS];
}

INLINE int image_of(G const long* layer, const int task, const int images)
{
  return layer[L_HEAVY] ? task % images : task / (int)layer[L_TASKS];
}

// `before`: the task of this layer that the worker did last, or -1; where it was of the same strip, its scratch holds.
SEPARATE void run_task(G uchar* restrict arena, G const char* restrict constants, G const long* restrict layer,
                       const int task, const int before, const int images, const int worker, G const char* ahead,
                       G const char* stop ARGUMENTS)
{
  const int image = image_of(layer, task, images);
  const int part = part_of(layer, task, images);
  G const uchar* source = arena + layer[L_SOURCE] + image * layer[L_SOURCE_STEP];
  G const uchar* other = arena + layer[L_OTHER] + image * layer[L_OTHER_STEP];
  G uchar* output = arena + layer[L_OUTPUT] + image * layer[L_OUTPUT_STEP];
  G const char* weights = constants + layer[L_WEIGHTS];
  G const double* parameters = (G const double*)(constants + layer[L_PARAMETERS]);
  G const long* rule = layer + L_RULE;
  // convolutions are cut in strips of pixels x groups of panels, other steps in rows
  const int rows = (int)layer[L_ROWS], step = (int)layer[L_ROWS_PER_TASK], panels = (int)layer[L_PANELS];
  const int group = group_of(layer, part);
  const int strip = strip_of(layer, part);
  const int again = before >= 0 && image_of(layer, before, images) == image &&
                    strip_of(layer, part_of(layer, before, images)) == strip;
  const int from = part * step, to = min(from + step, rows);
  UNPACK(addresses + image * ROW)
  REDIRECT
  switch ((int)layer[L_KIND]) {
  CASES
  }
}

#if PROFILE
#define NOW() ((ulong)__builtin_readcyclecounter())
#endif

#if PERSISTENT
// The next task of layer `*layer` or of the first after it that has one left; -1 at the end of the network. Workers with
// an even number take tasks from the front, the others from the back: so each core mostly meets the rows of the map, or
// the weights, that its second-level cache holds.
INLINE int take_task(G const long* layers, G int* sync, const int images, const int worker, int* layer)
{
  for (; *layer < LAYERS; ++*layer) {
    const int count = (int)layers[*layer * FIELDS + L_TASKS] * images;
    // one counter holds what was taken from the front, and times 2^16 from the back, so that they never meet
    const int back = worker % 2 && count < 1 << 14;
    const uint taken = (uint)ADD(sync + 16 + 32 * *layer, back ? 1 << 16 : 1, memory_order_relaxed);
    const int first = count < 1 << 14 ? (int)(taken & 0xffff) : (int)taken, last = (int)(taken >> 16);
    if (count >= 1 << 14 ? first < count : first + last < count) return back ? count - 1 - last : first;
  }
  return -1;
}

// The weights that a worker fetches while it does a task of `layer`, its `turn`-th: those of its next, which is task `next`
// of layer `after`. Where it has these already, or there are none, those of a later layer, part after part.
INLINE void choose_fetched(G const char* constants, G const long* layers, const int layer, const int after,
                           const int next, const int turn, const int images, const int worker, G const char** from,
                           G const char** to)
{
  G const long* record = layers + layer * FIELDS;
  G const long* coming = layers + min(after, LAYERS - 1) * FIELDS;
  int group = group_of(coming, part_of(coming, next, images));
  const long had = turn + 1 - record[L_GROUPS]; // tasks since all the layer's weights were read, where they take turns
  const int same = after == layer && !record[L_HEAVY] && had >= 0;
  for (int l = after; l + 1 < LAYERS && ((same && l == layer) || !coming[L_GROUP_BYTES]); ++l) {
    coming += FIELDS;
    group = worker % 2 ? (int)coming[L_GROUPS] - 1 : 0; // which it will probably take
  }
  const long skipped = same ? min(had * FETCH_STRIDE, coming[L_GROUP_BYTES]) : 0;
  *from = constants + coming[L_WEIGHTS] + group * coming[L_GROUP_BYTES] + skipped;
  *to = *from + min(coming[L_GROUP_BYTES] - skipped, (long)FETCH_AT_MOST);
}

// One worker's part of one inference; true for the last to leave, when all is done. `sync` (one cache line each): [0]
// workers that have left, then of each layer tasks taken and tasks done. With PROFILE, `trace` gets four numbers per task:
// when its worker was free, began and ended it (cycles), and the worker.
SEPARATE bool all_layers(G uchar* arena, G const char* constants, G const long* layers, G int* sync, const int worker,
                         const int workers, const int images TRACE ARGUMENTS)
{
  int layer = 0, ready = 0, before = -1, turn = 0;
#if PROFILE
  ulong taken = NOW();
#endif
  int task = take_task(layers, sync, images, worker, &layer);
  while (task >= 0) {
    int after = layer;
    const int next = take_task(layers, sync, images, worker, &after);
    G const long* record = layers + layer * FIELDS;
    G const char *ahead, *stop;
    choose_fetched(constants, layers, layer, after, max(next, 0), turn, images, worker, &ahead, &stop);
    for (; ready <= (int)record[L_WAIT]; ++ready)
      for (int polls = 0; READ(sync + 32 + 32 * ready) < (int)layers[ready * FIELDS + L_TASKS] * images; ++polls)
        if (polls >= POLLS) GIVE_WAY();
#if PROFILE
    G ulong* row = trace + 4 * (record[L_FIRST] * images + task);
    row[0] = taken;
    row[1] = NOW();
#endif
    run_task(arena, constants, record, task, before, images, worker, ahead, stop VALUES);
#if PROFILE
    row[2] = taken = NOW();
    row[3] = (ulong)worker;
#endif
    ADD(sync + 32 + 32 * layer, 1, memory_order_acq_rel);
    before = after == layer ? task : -1;
    turn = after == layer ? turn + 1 : 0;
    task = next;
    layer = after;
  }
  // the last to leave clears the counters for the next launch
  if (ADD(sync, 1, memory_order_acq_rel) != workers - 1) return false;
  for (int l = 0; l < LAYERS; ++l) sync[16 + 32 * l] = sync[32 + 32 * l] = 0;
  sync[0] = 0;
  return true;
}

#if IN_PLACE
// `call`: images of this launch, address of the head's table; then a row per image.
SINGLE __kernel void network(G uchar* arena, G const char* constants, G const long* layers, G int* sync,
                             G long* call TRACE)
{
  G long* addresses = call + HEADER;
  const int images = (int)call[0], worker = (int)get_group_id(0), workers = (int)get_num_groups(0);
  if (all_layers(arena, constants, layers, sync, worker, workers, images TRACED VALUES))
    for (int image = 0; image < images; ++image) { FINISH(call, addresses + image * ROW) }
}
#else
SINGLE __kernel void network(G uchar* arena, G const char* constants, G const long* layers, G int* sync,
                             const int images ARRAYS TRACE)
{
  G int* not_finite = 0;
  all_layers(arena, constants, layers, sync, (int)get_group_id(0), (int)get_num_groups(0), images TRACED VALUES);
}
#endif
#else

// One layer a launch, one task a work-group: for devices without the atomics above.
#if IN_PLACE
SINGLE __kernel void one_layer(G uchar* arena, G const char* constants, G const long* layers, const int index,
                               G long* call)
{
  G long* addresses = call + HEADER;
  run_task(arena, constants, layers + index * FIELDS, (int)get_global_id(0), -1, (int)call[0],
           (int)get_global_id(0), constants, constants VALUES);
}
#else
SINGLE __kernel void one_layer(G uchar* arena, G const char* constants, G const long* layers, const int index,
                               const int images ARRAYS)
{
  G int* not_finite = 0;
  run_task(arena, constants, layers + index * FIELDS, (int)get_global_id(0), -1, images, (int)get_global_id(0),
           constants, constants VALUES);
}
#endif
#endif
