/* The overlay: seven single-work-item kernels joined by channels. They interpret layer descriptors, so a network is
 * data. docs/explanation/fpga-overlay.md has the picture, the schedule and the memory map.
 *
 *   fetch --descriptors--> params, weights, features, array, requant, sink
 *   features --act--> array --acc--> requant --result--> features        (all maps stay in `features`)
 *   weights --weight--> array      params --image, param--> requant      features --store--> sink
 *
 * Rules that every loop here keeps, and why they allow an initiation interval of 1:
 *   - one loop a layer, with counters that wrap: no nest to drain, no division, exit known from one comparison;
 *   - the only loop-carried values are small counters, and accumulators that are added to once an iteration;
 *   - an on-chip memory has one load and one store site, unrolled over banks that no two pixels share;
 *   - each channel end has one call site;
 *   - external memory is only read (or only written) in a kernel, in address order: no dependency to resolve.
 */
#include "overlay.h"
#include "arithmetic.h"

/* Depths. A descriptor waits at most one layer: 2. `weight` covers the latency of external memory and holds what is
 * fetched ahead for layers that need more than it delivers. `act` and `acc` cover the pipelines that they join.
 * `result` must hold what is under way between `features`' last send and its first receive: LAG iterations yield at
 * most LAG + 2 LANE/CW words (geometry.py sets it so). */
channel layer_t to_params   __attribute__((depth(DESCRIPTOR_DEPTH)));
channel layer_t to_weights  __attribute__((depth(DESCRIPTOR_DEPTH)));
channel layer_t to_features __attribute__((depth(DESCRIPTOR_DEPTH)));
channel layer_t to_array    __attribute__((depth(DESCRIPTOR_DEPTH)));
channel layer_t to_requant  __attribute__((depth(DESCRIPTOR_DEPTH)));
channel layer_t to_sink     __attribute__((depth(DESCRIPTOR_DEPTH)));
channel res_t   image_ch    __attribute__((depth(IMAGE_DEPTH)));
channel wword_t weight_ch   __attribute__((depth(WEIGHT_DEPTH)));
channel par_t   param_ch    __attribute__((depth(PARAM_DEPTH)));
channel act_t   act_ch      __attribute__((depth(ACT_DEPTH)));
channel acc_t   acc_ch      __attribute__((depth(ACC_DEPTH)));
channel res_t   result_ch   __attribute__((depth(RESULT_DEPTH)));
channel act_t   store_ch    __attribute__((depth(STORE_DEPTH)));
#ifdef COUNT_TRIPS
channel int     params_trips   __attribute__((depth(TRIPS_DEPTH)));   /* these two run layers ahead */
channel int     weights_trips  __attribute__((depth(TRIPS_DEPTH)));
channel int     features_trips __attribute__((depth(TRIPS_DEPTH)));
channel int     array_trips    __attribute__((depth(TRIPS_DEPTH)));
channel int     requant_trips  __attribute__((depth(TRIPS_DEPTH)));
#endif

/* Checks every descriptor's checksum, then sends the program `runs` times, then OP_END. A corrupt descriptor stops
 * everything before the first layer: status[0] becomes 1 + its index.
 * First loop: the carried value is a sum with one addition (the rotation is wiring). Second loop: no carried value but counters. */
TASK __kernel void fetch(__global const layer_t *restrict program, __global const int *restrict words, int layers,
                         int runs, __global int *restrict status)
{
  uint sum = 1;
  int at = 0, index = 0, bad = 0;
  for (int i = 0; i < layers * LAYER_WORDS; ++i) {
    const uint word = (uint)words[i];
    const bool last = at == LAYER_WORDS - 1;
    if (last && word != sum && bad == 0) bad = index + 1;
    sum = last ? 1 : rotate(sum, 5u) + word;
    at = last ? 0 : at + 1;
    index += last;
  }
  status[0] = bad;
  const int total = bad ? 0 : layers * runs;
  int layer = 0;
  for (int i = 0; i <= total; ++i) {
    layer_t d = program[layer];
    if (i == total) d.op = OP_END;
    if (++layer == layers) layer = 0;
    write_channel_intel(to_params, d);
    write_channel_intel(to_weights, d);
    write_channel_intel(to_features, d);
    write_channel_intel(to_array, d);
    write_channel_intel(to_requant, d);
    write_channel_intel(to_sink, d);
  }
}

/* External memory is read by two kernels, one for each consumer and in that consumer's order. (One kernel for both
 * streams deadlocks: parameters wait for results that wait for the weights queued behind them.) Neither waits for a
 * layer to end, so both prefetch as far as their channels allow. II = 1: sequential reads, one counter each. */
TASK __kernel void params(__global const res_t *restrict image, __global const par_t *restrict groups)
{
  int at = 0;                                        /* images follow each other through all runs */
  for (;;) {
    const layer_t d = read_channel_intel(to_params);
    if (d.op == OP_END) return;
    COUNT(int trips = 0);
    if (d.op == OP_LOAD) {
      for (int i = 0; i < d.outputs * d.out_words; ++i) {
        write_channel_intel(image_ch, image[at + i]);
        COUNT(++trips);
      }
      at += d.outputs * d.out_words;
    } else if (d.op != OP_STORE) {
      for (int g = 0; g < d.groups; ++g) {
        write_channel_intel(param_ch, groups[d.par_base + g]);
        COUNT(++trips);
      }
    }
    COUNT(write_channel_intel(params_trips, trips));
  }
}

TASK __kernel void weights(__global const wword_t *restrict packed)
{
  for (;;) {
    const layer_t d = read_channel_intel(to_weights);
    if (d.op == OP_END) return;
    COUNT(int trips = 0);
    for (int i = 0; i < d.w_words; ++i) {
      write_channel_intel(weight_ch, packed[d.w_base + i]);
      COUNT(++trips);
    }
    COUNT(write_channel_intel(weights_trips, trips));
  }
}

/* Owns all feature maps: two on-chip memories of PIX banks, each with one read and one write port. Pixel x of a row
 * lies in bank x mod PIX. Each iteration sends one vector of channels for each pixel and, `lag` iterations after a
 * pixel group's last send, takes one word of its results. The next layer's reads start only after this loop has
 * stored its last result: no fence, no token, no global memory.
 *
 * II = 1: `ivdep` is true because a layer never reads what it writes (the placement gives source and result
 * different words), except a residual operand overwritten in place: its word is read in the iteration that writes
 * it, before the write, and never again. Counters are the only carried values. */
SERVICE __kernel void features(void)
{
  __local vword_t map0[MAP0_WORDS][PIX];
  __local vword_t map1[MAP1_WORDS][PIX];
  for (;;) {
    const layer_t d = read_channel_intel(to_features);
    UNTIL_END(d);
    COUNT(int trips = 0);
    int cv = 0, kx = 0, tap_x = 0, ky = 0, k = 0, xg = 0, y = 0, n = 0;                 /* sending   */
    int in_image = d.in_base, first_vec = 0;
    int r_step = 0, r_xg = 0, r_y = 0, r_n = 0, r_first = 0, r_word = 0;     /* receiving */
    int out_row = 0, out_image = d.out_base, skip_image = d.skip_base;
    const int sends = d.op == OP_LOAD ? 0 : d.outputs * d.period;
    const int first_result = d.period - 1 + d.lag;
    const int receives = d.op == OP_STORE ? 0 : d.outputs * d.period;
    int received = 0;
    #pragma ivdep array(map0)
    #pragma ivdep array(map1)
    for (int i = 0; i < d.trips; ++i) {
      const bool sending = i < sends;
      const bool send = sending && k < d.acts;
      const bool receiving = i >= first_result && received < receives;
      const bool receive = receiving && r_step < d.out_words;
      const int out_vec = r_word / NH, out_half = r_word % NH;               /* NH is a power of two */
      const bool keep = receive && out_vec < d.out_vecs;       /* lanes beyond the last channel are dropped */
      const int out_index = out_row + out_vec;

      /* one address for each bank and memory: the activation's if the layer reads that memory, else the skip's */
      const int in_y = y * d.stride_y + ky - d.pad_y;
      const int row = (in_y * d.in_cols + xg * d.stride_x) * d.in_vecs + first_vec + cv + in_image;
      const bool row_inside = send && in_y >= 0 && in_y < d.in_h;
      const int x_first = xg * PIX * d.stride_x;
      int bank_of[PIX], address[PIX];
      bool inside[PIX];
      UNROLL for (int b = 0; b < PIX; ++b) address[b] = d.in_base;
      UNROLL for (int p = 0; p < PIX; ++p) {
        const int dx = p * d.stride_x + tap_x - d.pad_x + X_BIAS;
        const int x = x_first + dx - X_BIAS;
        bank_of[p] = dx % PIX;
        inside[p] = row_inside && x >= 0 && x < d.in_w;
#ifdef EMULATOR
        if (inside[p]) address[bank_of[p]] = row + (dx / PIX - X_BIAS / PIX) * d.in_vecs;
#else
        UNROLL for (int b = 0; b < PIX; ++b)                    /* a crossbar: no variable index into registers */
          if (bank_of[p] == b && inside[p]) address[b] = row + (dx / PIX - X_BIAS / PIX) * d.in_vecs;
#endif
      }
      const int skip = keep && d.add ? skip_image + out_index : 0;
      vword_t from_in[PIX], from_skip[PIX];
      UNROLL for (int b = 0; b < PIX; ++b) {
        const vword_t v0 = map0[d.in_mem ? skip : address[b]][b];
        const vword_t v1 = map1[d.in_mem ? address[b] : skip][b];
        from_in[b] = d.in_mem ? v1 : v0;
        from_skip[b] = d.in_mem ? v0 : v1;
      }
      if (send) {
        act_t a;
        UNROLL for (int p = 0; p < PIX; ++p) {
          a.p[p] = from_in[bank_of[p]];
          if (!inside[p])
            UNROLL for (int h = 0; h < NH; ++h)
              UNROLL for (int c = 0; c < CW; ++c) a.p[p].h[h].c[c] = (uchar)d.pad_value;
        }
        if (d.op == OP_STORE) write_channel_intel(store_ch, a);
        else                  write_channel_intel(act_ch, a);
      }
      if (receive) {
        res_t v = read_channel_intel(result_ch);
        if (d.add)
          UNROLL for (int p = 0; p < PIX; ++p)
            UNROLL for (int c = 0; c < CW; ++c)
              v.p[p].c[c] = add_rule(v.p[p].c[c], from_skip[p].h[out_half].c[c], d.add_first, d.add_second,
                                     d.add_offset, d.add_shift, d.add_low, d.add_high);
#ifdef BFP
        UNROLL for (int c = 0; c < CW; ++c)          /* unused channels must not raise their block's exponent */
          if (r_word * CW + c >= d.out_channels)
            UNROLL for (int p = 0; p < PIX; ++p) v.p[p].c[c] = 0;
#endif
        if (keep) {
          const int to = out_image + out_index;
          UNROLL for (int p = 0; p < PIX; ++p) {
            if (d.out_mem) map1[to][p].h[out_half] = v.p[p];
            else           map0[to][p].h[out_half] = v.p[p];
          }
        }
      }

      /* counters: innermost first, each wraps into the next */
      if (send && ++cv == d.red_vecs) {
        cv = 0;
        tap_x += d.tap_step;
        if (++kx == d.taps_x) {
          kx = 0;
          tap_x = 0;
          if (++ky == d.taps_y) ky = 0;
        }
      }
      if (sending && ++k == d.period) {
        k = 0;
        if (++xg == d.cols) {
          xg = 0;
          if (++y == d.rows) {
            y = 0;
            in_image += d.in_step;
            if (++n == d.images) { n = 0; in_image = d.in_base; first_vec += d.group_vecs; }
          }
        }
      }
      if (receiving) {
        ++received;
        ++r_word;
        if (++r_step == d.period) {
          r_step = 0;
          out_row += d.out_vecs;
          if (++r_xg == d.cols) {
            r_xg = 0;
            if (++r_y == d.rows) {
              r_y = 0;
              out_row = 0;
              out_image += d.out_step;
              skip_image += d.skip_step;
              if (++r_n == d.images) {
                r_n = 0;
                out_image = d.out_base;
                skip_image = d.skip_base;
                r_first += d.out_words;
              }
            }
          }
          r_word = r_first;
        }
      }
      COUNT(++trips);
    }
    COUNT(write_channel_intel(features_trips, trips));
  }
}

/* PIX x LANE x VEC multiply-accumulates an iteration. Weights are double-buffered: while one part of the reduction is
 * used, the next (of this group, the next group or the next convolution) is loaded. All groups of a layer are one
 * loop, so nothing drains between them. Pooling runs through the same accumulators.
 *
 * II = 1: the accumulators are registers with one addition an iteration; `ivdep` on tiles holds because the two
 * buffers are disjoint and swap only at a part's end; a tile is one word of WPT banks, so load and use never compete. */
SERVICE __kernel void array(void)
{
  __local wword_t tiles[2][WEIGHT_TILES][WPT];
  int current = 0;
  for (;;) {
    const layer_t d = read_channel_intel(to_array);
    UNTIL_END(d);
    COUNT(int trips = 0);
    const int pixel_groups = d.op == OP_LOAD || d.op == OP_STORE ? 0 : d.images * d.rows * d.cols;
    const int part_steps = pixel_groups * d.part_acts, last_steps = pixel_groups * d.last_acts;
    int part = 0, group = 0;
    const int groups = d.op == OP_LOAD ? 1 : d.groups;           /* a LOAD only fetches the first weights */
    bool last_part = d.parts == 1, last_group = groups == 1;
    int steps = last_part ? last_steps : part_steps;
    int load = !last_part ? (d.parts == 2 ? d.last_words : d.part_words)
             : last_group ? d.next_words : d.parts == 1 ? d.last_words : d.part_words;
    int j = 0;                         /* position in the part    */
    int k = 0, first_k = 0;            /* step of the reduction; where this part starts */
    int tile = 0, bank = 0;            /* where the next loaded word goes */
    acc_t acc;
    #pragma ivdep array(tiles)
    for (int i = 0; i < d.array_trips; ++i) {
      if (j < load) {
        tiles[1 - current][tile][bank] = read_channel_intel(weight_ch);
        if (++bank == WPT) { bank = 0; ++tile; }
      }
      if (j < steps) {
        const act_t a = read_channel_intel(act_ch);
        wword_t w[WPT];
        const int use = d.op == OP_CONV ? k - first_k : 0;       /* pooling counts past the tiles */
        UNROLL for (int q = 0; q < WPT; ++q) w[q] = tiles[current][use][q];
        UNROLL for (int p = 0; p < PIX; ++p) {
          if (d.op == OP_CONV) {
#if defined(BFP)
            /* five-bit mantissas, one exponent for the pixel's VEC channels; a weight's byte holds its block's
             * exponent in the two high bits and a six-bit signed mantissa below */
            int any = 0, m[VEC];
            UNROLL for (int v = 0; v < VEC; ++v) any |= a.p[p].h[v / CW].c[v % CW];
            const int e = block_exponent(any);
            UNROLL for (int v = 0; v < VEC; ++v) m[v] = block_mantissa(a.p[p].h[v / CW].c[v % CW], e);
            UNROLL for (int l = 0; l < LANE; ++l) {
              int dot = 0;
              UNROLL for (int v = 0; v < VEC; ++v) {
                const int coded = w[(l * VEC + v) / WB].b[(l * VEC + v) % WB];
                dot += m[v] * ((coded << 26) >> 26);
              }
              const int ew = ((uchar)w[l * VEC / WB].b[l * VEC % WB]) >> 6;
              dot <<= e + ew;
              acc.p[p][l] = k ? acc.p[p][l] + dot : dot;
            }
#elif defined(MAC_PAIRS)
            UNROLL for (int l = 0; l < LANE; l += 2) {
              int2 dot = 0;
              UNROLL for (int v = 0; v < VEC; ++v)
                dot += multiply_pair(a.p[p].h[v / CW].c[v % CW], w[(l * VEC + v) / WB].b[(l * VEC + v) % WB],
                                     w[((l + 1) * VEC + v) / WB].b[((l + 1) * VEC + v) % WB]);
              acc.p[p][l]     = k ? acc.p[p][l] + dot.x : dot.x;
              acc.p[p][l + 1] = k ? acc.p[p][l + 1] + dot.y : dot.y;
            }
#else
            UNROLL for (int l = 0; l < LANE; ++l) {
              int dot = 0;
              UNROLL for (int v = 0; v < VEC; ++v)
                dot += (int)a.p[p].h[v / CW].c[v % CW] * (int)w[(l * VEC + v) / WB].b[(l * VEC + v) % WB];
              acc.p[p][l] = k ? acc.p[p][l] + dot : dot;
            }
#endif
          } else {
            UNROLL for (int v = 0; v < VEC; ++v) {
              const int x = a.p[p].h[v / CW].c[v % CW], old = acc.p[p][v];
              acc.p[p][v] = k == 0 ? x : d.op == OP_MAX ? max(x, old) : x + old;
            }
          }
        }
        if (++k == d.acts) { k = 0; write_channel_intel(acc_ch, acc); }
      }
      if (++j >= max(steps, load)) {               /* the part is done: swap the buffers if one was loaded */
        j = 0;
        if (load) current = 1 - current;
        tile = 0;
        bank = 0;
        if (last_part) { part = 0; ++group; first_k = 0; } else { ++part; first_k += d.part_acts; }
        last_part = part == d.parts - 1;
        last_group = group == groups - 1;
        steps = last_part ? last_steps : part_steps;
        load = !last_part ? (part == d.parts - 2 ? d.last_words : d.part_words)
             : last_group ? d.next_words : d.parts == 1 ? d.last_words : d.part_words;
      }
      COUNT(++trips);
    }
    COUNT(write_channel_intel(array_trips, trips));
  }
}

/* Bias, fixed-point scale, clamp: CW channels of PIX pixels an iteration. LOAD layers pass the image through.
 * II = 1: nothing is carried but three counters and the two registers that hold the current words. */
SERVICE __kernel void requant(void)
{
  for (;;) {
    const layer_t d = read_channel_intel(to_requant);
    UNTIL_END(d);
    COUNT(int trips = 0);
    const int per_group = d.images * d.rows * d.cols * d.out_words;
    const int total = d.op == OP_STORE ? 0 : d.outputs * d.out_words;
    int in_group = 0, word = 0;
    par_t par;
    acc_t acc;
    for (int i = 0; i < total; ++i) {
      res_t out;
      if (d.op == OP_LOAD) {
        out = read_channel_intel(image_ch);
      } else {
        if (in_group == 0) par = read_channel_intel(param_ch);
        if (word == 0) acc = read_channel_intel(acc_ch);
        UNROLL for (int c = 0; c < CW; ++c) {
          const int lane = word * CW + c;
          int columns = 0;                   /* a global pool leaves one sum for each of PIX columns */
          UNROLL for (int p = 0; p < PIX; ++p) columns += acc.p[p][lane];
          UNROLL for (int p = 0; p < PIX; ++p)
            out.p[p].c[c] = requantise((d.op == OP_SUM ? columns : acc.p[p][lane]) + par.bias[lane], d.pre_shift,
                                       par.shift[lane], par.multiplier[lane], d.low, d.high);
        }
      }
      write_channel_intel(result_ch, out);
      if (++in_group == per_group) in_group = 0;
      if (++word == d.out_words) word = 0;
      COUNT(++trips);
    }
    COUNT(write_channel_intel(requant_trips, trips));
  }
}

/* Writes what STORE layers send; its end is the end of the batch. counts: six numbers for each layer of each run. */
TASK __kernel void sink(__global act_t *restrict out, __global int *restrict counts)
{
  int at = 0;
  COUNT(int n = 0);
  for (;;) {
    const layer_t d = read_channel_intel(to_sink);
    if (d.op == OP_END) return;
    COUNT(int trips = 0);
    if (d.op == OP_STORE) {
      for (int i = 0; i < d.outputs * d.acts; ++i) {
        out[at + i] = read_channel_intel(store_ch);
        COUNT(++trips);
      }
      at += d.outputs * d.acts;
    }
#ifdef COUNT_TRIPS
    counts[n++] = read_channel_intel(params_trips);
    counts[n++] = read_channel_intel(weights_trips);
    counts[n++] = read_channel_intel(features_trips);
    counts[n++] = read_channel_intel(array_trips);
    counts[n++] = read_channel_intel(requant_trips);
    counts[n++] = trips;
#endif
  }
}
