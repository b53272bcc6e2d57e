// The whole network in one launch. The generator defines before this file: LAYERS, WORKERS, FIELDS (longs per layer
// record), L_<FIELD> (their places), ARGUMENTS and VALUES (inputs and outputs: float in0..., uchar out0...), CASES (one
// call per kind of layer and shape of convolution), REDIRECT (sends outputs to their argument), PROFILE, and
// KERNEL_ARGUMENTS with UNPACK: the number of images, inputs and outputs as arguments, or, where the device works in the
// caller's memory, one array that holds the number and the addresses.
//
// A layer is cut into tasks; tasks are numbered through the network and a worker (one work-group) takes the next
// number from a counter. Before its first task of a layer it waits until all tasks of the layers it depends on are
// done. It waits only for tasks that a running worker holds, so the network ends even if just one worker runs.

// One work-item per work-group, never merged with others into vectors: the code is vectorised by hand.
#if INTEL
#define SINGLE __attribute__((reqd_work_group_size(1, 1, 1))) __attribute__((intel_vec_len_hint(1)))
#else
#define SINGLE __attribute__((reqd_work_group_size(1, 1, 1)))
#endif

SEPARATE void run_task(G uchar* restrict arena, G const char* restrict constants, G const long* restrict layer,
                       const int task, const int images, const int worker, G const char* ahead ARGUMENTS)
{
  const int parts = (int)layer[L_TASKS];
  const int image = layer[L_IMAGE_INNER] ? task % images : task / parts;
  const int part = layer[L_IMAGE_INNER] ? task / images : task % parts;
  G const uchar* source = arena + layer[L_SOURCE] + image * layer[L_SOURCE_STEP];
  G const uchar* other = arena + layer[L_OTHER] + image * layer[L_OTHER_STEP];
  G uchar* output = arena + layer[L_OUTPUT] + image * layer[L_OUTPUT_STEP];
  G const char* weights = constants + layer[L_WEIGHTS];
  G const int* parameters = (G const int*)(constants + layer[L_PARAMETERS]);
  G const long* rule = layer + L_RULE;
  // convolutions are cut in strips of pixels x groups of panels, other steps in rows
  const int rows = (int)layer[L_ROWS], step = (int)layer[L_ROWS_PER_TASK], panels = (int)layer[L_PANELS];
  const int strip = part / (int)layer[L_GROUPS], group = part % (int)layer[L_GROUPS];
  const int from = part * step, to = min(from + step, rows);
  REDIRECT
  switch ((int)layer[L_KIND]) {
  CASES
  }
}

#if PERSISTENT
// `sync` (one cache line each): [0] the next task, [16] workers that have left, [32 + 16 l] tasks of layer l done.
SINGLE __kernel void network(G uchar* arena, G const char* constants, G const long* layers, G int* sync KERNEL_ARGUMENTS)
{
  UNPACK
  int layer = 0, ready = 0;
  int task = TAKE(sync, memory_order_relaxed);
#if PROFILE
  if (task == 0) profile[0] = (ulong)__builtin_readcyclecounter();
#endif
  while (task < (int)layers[LAYERS * FIELDS + L_FIRST] * images) {
    const int next = TAKE(sync, memory_order_relaxed); // its weights are fetched meanwhile
    while (task >= (int)layers[(layer + 1) * FIELDS + L_FIRST] * images) ++layer;
    G const long* record = layers + layer * FIELDS;
    int after = layer;
    while (after < LAYERS - 1 && next >= (int)layers[(after + 1) * FIELDS + L_FIRST] * images) ++after;
    G const long* coming = layers + after * FIELDS;
    const int place = next - (int)coming[L_FIRST] * images;
    const int part = coming[L_IMAGE_INNER] ? place / images : place % (int)coming[L_TASKS];
    G const char* ahead = constants + coming[L_WEIGHTS] + part % (int)coming[L_GROUPS] * coming[L_GROUP_BYTES];
    for (; ready <= (int)record[L_WAIT]; ++ready)
      for (int polls = 0; READ(sync + 32 + 16 * ready) < (int)layers[ready * FIELDS + L_TASKS] * images; ++polls)
        if (polls >= POLLS) GIVE_WAY();
    run_task(arena, constants, record, task - (int)record[L_FIRST] * images, images, (int)get_group_id(0), ahead VALUES);
    const int done = TAKE(sync + 32 + 16 * layer, memory_order_acq_rel);
#if PROFILE
    if (done == (int)record[L_TASKS] * images - 1) profile[layer + 1] = (ulong)__builtin_readcyclecounter();
#endif
    task = next;
  }
  // the last to leave clears the counters for the next launch
  if (TAKE(sync + 16, memory_order_acq_rel) == WORKERS - 1) {
    for (int l = 0; l < LAYERS; ++l) sync[32 + 16 * l] = 0;
    sync[0] = sync[16] = 0;
  }
}
#else

// One layer a launch, one task a work-group: for devices without the atomics above.
SINGLE __kernel void one_layer(G uchar* arena, G const char* constants, G const long* layers,
                               const int index KERNEL_ARGUMENTS)
{
  UNPACK
  run_task(arena, constants, layers + index * FIELDS, (int)get_global_id(0), images, 0, constants VALUES);
}
#endif
